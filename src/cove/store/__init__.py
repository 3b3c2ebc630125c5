"""What survives the daemon: files replaced atomically, and the database."""
