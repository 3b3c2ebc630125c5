"""Cove: a container platform. Applications in containers on the Linux kernel, in Python."""

__version__ = "0.1.0"
