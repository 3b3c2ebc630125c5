"""Frozen values of the Open Container Initiative: runtime spec, image manifests, references."""
