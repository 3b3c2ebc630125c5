"""Between clone3 and execve: what a new process does to itself, or a helper outside for it."""
