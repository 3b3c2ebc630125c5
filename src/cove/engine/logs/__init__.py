"""Log drivers: where a container's output goes beside its own log."""
