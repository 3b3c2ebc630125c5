"""gRPC over HTTP/2, both ends of it, on a connection that somebody else opened.

protobuf   frozen values ⇄ bytes, by the field numbers that the values' types carry
http2      streams with flow control over a channel (h2 does the protocol, this room the waiting)
status     codes, errors and their details
calls      one call: messages both ways, metadata, a status at its end; serving and asking

It knows no service and no message of anybody's. https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""
