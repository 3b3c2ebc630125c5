"""Volumes and binds: data that outlives a container, shown inside it by mounts that end with it."""
