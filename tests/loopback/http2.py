"""A client that speaks HTTP/2 frame by frame."""

from contextlib import aclosing

import anyio
from anyio.streams.tls import TLSStream
from h2.config import H2Configuration
from h2.connection import H2Connection


class H2Client:
    """HTTP/2 frame by frame."""

    def __init__(self, stream):
        self.stream = stream
        self.connection = H2Connection(H2Configuration(client_side=True, validate_outbound_headers=False))
        self.seen = []

    async def flush(self):
        await self.stream.send(self.connection.data_to_send())

    async def request(self, path, method="GET", *, end=True, flush=True, **headers):
        stream_id = self.connection.get_next_available_stream_id()
        fields = {":method": method, ":path": path, ":scheme": "https", ":authority": "test", **headers}
        self.connection.send_headers(stream_id, list(fields.items()), end_stream=end)
        if flush:
            await self.flush()
        return stream_id

    async def events(self):
        while True:
            try:
                data = await self.stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return
            for event in self.connection.receive_data(data):
                yield event
            await self.flush()

    async def until(self, kind):
        async with aclosing(self.events()) as events:
            async for event in events:
                self.seen.append(event)
                if isinstance(event, kind):
                    return event
        return None


async def open_h2(served, client_tls):
    client_tls.set_alpn_protocols(["h2"])
    stream = await anyio.connect_tcp("127.0.0.1", served.port)
    tls = await TLSStream.wrap(
        stream, hostname="localhost", ssl_context=client_tls, standard_compatible=False, server_side=False
    )
    client = H2Client(tls)
    client.connection.initiate_connection()
    await client.flush()
    return client
