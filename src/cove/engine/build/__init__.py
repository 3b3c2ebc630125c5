"""Builds: whatever door they come through, one job."""
