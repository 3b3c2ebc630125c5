"""An OCI distribution server: `cove registry serve`."""
