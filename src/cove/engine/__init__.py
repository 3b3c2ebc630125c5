"""The use cases, one module per noun."""
