"""A synchronous client of the Engine API, one file per resource."""
