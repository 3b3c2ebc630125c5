"""Images: shown, named, moved, trusted."""
