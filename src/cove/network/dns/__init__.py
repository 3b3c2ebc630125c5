"""Names for containers: what a container on a user's network asks at 127.0.0.11 is answered here.

container ── 127.0.0.11:53 ──▶ a socket inside its own network namespace, held by the resolver
resolver  ── known names ────▶ answered from memory, per network
          ── all others ─────▶ the servers the container may ask

wire      DNS messages, bytes in and bytes out         names     who is called what, on which network
forward   the exchange with other servers              sandbox   the sockets inside a container
server    the process that holds it all                client    the daemon's end of it
messages  what those two say to each other
"""
