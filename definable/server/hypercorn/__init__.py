"""HTTP/2 and WebSockets, on the network-free protocols of hypercorn.

Each stream of a connection is a `request_cycle`. `server.connection` makes a `HypercornConnection` for a client that
needs it.
"""
