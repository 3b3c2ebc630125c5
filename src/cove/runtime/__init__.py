"""A Spec becomes processes: supervisor, init, stdio, logs, state."""
