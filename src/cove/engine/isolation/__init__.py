"""What a container may do and use: limits, rights, users, devices."""
