"""Atomic files and the SQLite database."""
