"""The Docker Engine API's types, one file per resource."""
