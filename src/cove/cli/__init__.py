"""The cove command."""
