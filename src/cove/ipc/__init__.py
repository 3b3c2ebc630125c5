"""Messages over SEQPACKET sockets, with file descriptors."""
