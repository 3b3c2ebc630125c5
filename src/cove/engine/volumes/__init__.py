"""Volumes, and every mount that a container asks for."""
