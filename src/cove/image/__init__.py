"""Content store, layers, snapshots and the ways images travel."""
