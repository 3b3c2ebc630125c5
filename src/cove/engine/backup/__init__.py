"""Backups of containers, and containers out of backups."""
