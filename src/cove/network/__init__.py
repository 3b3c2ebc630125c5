"""Drivers, addresses, ports: how a container's network stack meets the host's."""
