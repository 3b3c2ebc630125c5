"""Containers: what is written down of them, and each of their transitions."""
