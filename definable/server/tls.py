"""TLS for the server: the context, checked before anything starts, and the handshake of one connection."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from os import PathLike, fspath
from typing import Any

import anyio
from anyio import EndOfStream
from anyio.abc import ByteStream
from anyio.streams.tls import TLSAttribute, TLSStream

from definable.errors import ConfigurationError

ALPN = ("h2", "http/1.1")
"""Protocols that the server speaks over TLS, the preferred one first (RFC 7301)."""


def ssl_context(certfile: str | PathLike[str], keyfile: str | PathLike[str] | None = None) -> ssl.SSLContext:
    """The TLS settings of a server: TLS 1.2 and later, HTTP/2 or HTTP/1.1 by ALPN.

    Args:
        certfile: PEM file with the certificate, followed by its chain.
        keyfile: PEM file with the unencrypted private key; None when it is in `certfile` too.

    Raises:
        ConfigurationError: A file is missing, unreadable, not what it should be, or the key does not belong to the
            certificate; the message names the file.
    """
    key = certfile if keyfile is None else keyfile
    _readable("certfile", certfile)
    _readable("keyfile", key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(list(ALPN))
    _load(context, fspath(certfile), fspath(key))
    return context


def _readable(parameter: str, path: str | PathLike[str]) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise ConfigurationError(f"{parameter} {fspath(path)!r} cannot be read: {error.strerror}") from error


def _load(context: ssl.SSLContext, certfile: str, keyfile: str) -> None:
    def refuse_password() -> str:
        raise ConfigurationError(f"keyfile {keyfile!r} is encrypted: give an unencrypted key")

    try:
        context.load_cert_chain(certfile, keyfile, password=refuse_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigurationError(f"keyfile {keyfile!r} is not the key of certfile {certfile!r}") from error
        if not _has_certificate(certfile):
            raise ConfigurationError(f"certfile {certfile!r} holds no valid PEM certificate") from error
        raise ConfigurationError(f"keyfile {keyfile!r} holds no valid PEM private key") from error


def _has_certificate(certfile: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(certfile)
    except ssl.SSLError:
        return False
    return True


class _Wire(ByteStream):
    """The socket beneath a TLS stream: one writer at a time, and an end that does not wait for the peer.

    `TLSStream` writes from the reading task too (say, to answer a key update), and its closing handshake waits for
    the peer's half, which an idle client does not send until it reads again. RFC 8446, section 6.1, lets either side
    close once its own `close_notify` is out.
    """

    def __init__(self, stream: ByteStream) -> None:
        self.stream = stream
        self._writing = anyio.Lock(fast_acquire=True)
        self.closing = False

    async def receive(self, max_bytes: int = 65536) -> bytes:
        if self.closing:
            raise EndOfStream
        return await self.stream.receive(max_bytes)

    async def send(self, item: bytes) -> None:
        async with self._writing:
            await self.stream.send(item)

    async def send_eof(self) -> None:
        await self.stream.send_eof()

    async def aclose(self) -> None:
        await self.stream.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return self.stream.extra_attributes  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


async def handshake(stream: ByteStream, context: ssl.SSLContext) -> TLSStream:
    """Makes the server's side of the TLS handshake; the caller bounds it and owns `stream` if it fails."""
    return await TLSStream.wrap(_Wire(stream), server_side=True, ssl_context=context, standard_compatible=False)


def negotiated(stream: TLSStream) -> str | None:
    """The protocol that ALPN chose, if it chose one."""
    return stream.extra(TLSAttribute.alpn_protocol, None)


async def notify_close(stream: TLSStream) -> None:
    """Sends `close_notify`, so that the peer can tell the end from a cut; does not wait for the answer."""
    wire = stream.transport_stream
    assert isinstance(wire, _Wire)
    wire.closing = True
    await stream.unwrap()


def beneath(stream: TLSStream) -> ByteStream:
    """The connection that a TLS stream runs over, for what still comes after `notify_close`."""
    wire = stream.transport_stream
    assert isinstance(wire, _Wire)
    return wire.stream
