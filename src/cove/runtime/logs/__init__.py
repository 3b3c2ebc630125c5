"""The output of containers: on its way to the disk, and read back."""
