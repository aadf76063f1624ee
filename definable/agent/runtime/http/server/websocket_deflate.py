"""WebSocket compression (RFC 7692) whose output is bounded while it is inflated: one byte can stand for a thousand.

wsproto's `PerMessageDeflate` inflates whatever comes before anybody can look at its size, and takes 256 KiB for the
compressor of each connection. Made by a `WebSocketStream` when client and server agreed on compression.
"""

from __future__ import annotations

import zlib

from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import CloseReason, FrameDecoder, FrameProtocol, Opcode, RsvBits

COMPRESSOR_WINDOW_BITS = 12
"""Window of what we send: smaller than agreed is always allowed, and with `COMPRESSOR_MEMORY_LEVEL` a compressor takes
32 KiB (zlib, `zconf.h`). The same figures as in `websockets`, whose authors measured them."""

COMPRESSOR_MEMORY_LEVEL = 5


class BoundedDeflate(PerMessageDeflate):
    """`permessage-deflate` as it was agreed on, for messages of a limited size.

    Args:
        accepted: The `Sec-WebSocket-Extensions` header of the handshake's response.
        max_message_bytes: Bytes of one message, inflated; beyond them the connection fails with 1009.
    """

    def __init__(self, accepted: str, max_message_bytes: int) -> None:
        super().__init__()
        self.finalize(accepted)
        self._max_message_bytes = max_message_bytes
        self.inflated: int = 0
        """Bytes of the message in progress."""

    def frame_inbound_header(
        self, proto: FrameDecoder | FrameProtocol, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        """Begins a frame. One that controls (say, a ping) may come between the fragments of a message.

        wsproto's takes what follows for uncompressed then (https://github.com/python-hyper/wsproto/pull/205).
        """
        if not opcode.iscontrol():
            return super().frame_inbound_header(proto, opcode, rsv, payload_length)
        self._inbound_is_compressible = False
        return CloseReason.PROTOCOL_ERROR if rsv.rsv1 else RsvBits(True, False, False)

    def frame_inbound_payload_data(self, proto: FrameDecoder | FrameProtocol, data: bytes) -> bytes | CloseReason:
        """Inflates a piece of a frame, as far as the message may grow."""
        if not self._inbound_compressed or not self._inbound_is_compressible:
            return data
        assert self._decompressor is not None
        left = self._max_message_bytes - self.inflated
        try:
            piece = self._decompressor.decompress(bytes(data), left + 1)
        except zlib.error:
            return CloseReason.INVALID_FRAME_PAYLOAD_DATA
        if len(piece) > left or self._decompressor.unconsumed_tail:
            return CloseReason.MESSAGE_TOO_BIG
        self.inflated += len(piece)
        return piece

    def frame_inbound_complete(self, proto: FrameDecoder | FrameProtocol, fin: bool) -> bytes | CloseReason | None:
        """Ends a frame, and with the last one its message."""
        if not self._inbound_is_compressible:
            return None
        rest = super().frame_inbound_complete(proto, fin)  # all input was consumed: what is left in zlib is small
        if fin:
            self.inflated = 0
        return rest

    def frame_outbound(
        self, proto: FrameDecoder | FrameProtocol, opcode: Opcode, rsv: RsvBits, data: bytes, fin: bool
    ) -> tuple[RsvBits, bytes]:
        """Compresses a frame, with little memory."""
        if self._compressor is None and self._compressible_opcode(opcode):
            bits = min(int(self.server_max_window_bits), COMPRESSOR_WINDOW_BITS)
            self._compressor = zlib.compressobj(
                zlib.Z_DEFAULT_COMPRESSION, zlib.DEFLATED, -bits, COMPRESSOR_MEMORY_LEVEL
            )
        return super().frame_outbound(proto, opcode, rsv, data, fin)
