"""The confined worker: everything that reads a stranger's archive or walks a tree."""
