"""The flags of `run` and `create`, and how each becomes part of a create request."""
