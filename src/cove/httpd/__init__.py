"""HTTP/1.1 for whoever serves it: values, connections, listeners. Knows no path and no resource.

messages    requests and replies as values
connection  one connection of one client: h11 on an asyncio transport
server      listeners and the connections that came through them
"""
