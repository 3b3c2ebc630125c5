"""Configuration, assembly and the main loop of the daemon."""
