"""HTTP/2 and WebSockets, on the network-free protocols of hypercorn.

Each stream of a connection is a `request_cycle`. It knows hypercorn's protocols and this package's transport, no
agent; `server.connection` loads it for a connection that needs it.
"""
