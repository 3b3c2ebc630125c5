"""How a container is isolated, told from what was asked for and from what the kernel says now."""
