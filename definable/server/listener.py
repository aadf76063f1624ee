"""What a server needs before it starts: bound sockets, the TLS context, and the streams of the running backend.

`bind` and `ssl_context` fail before anything else has started: a busy port is one plain `OSError`, a wrong certificate
one `ConfigurationError`.
"""

from __future__ import annotations

import errno
import socket
import ssl
import sys
from os import PathLike, fspath
from typing import Protocol, TypeAlias

from definable.concurrency.event_loop import current_backend
from definable.errors import ConfigurationError

from .transport import ClientStream

Address: TypeAlias = tuple[str, int] | None
"""A host and port; None where the system does not tell."""

BACKLOG = 1024
"""Connections that the kernel holds for us between two accepts."""

ADVICE = {
    errno.EADDRINUSE: "the port is in use: stop the process that has it, or choose another (port=0 picks a free one)",
    errno.EADDRNOTAVAIL: 'this machine has no such address: use "127.0.0.1", or "0.0.0.0" for all of them',
    errno.EACCES: "ports below 1024 need privileges: choose a higher one",
}
"""The way out of the failures that users meet."""

ALPN = ("h2", "http/1.1")
"""Protocols that the server speaks over TLS, the preferred one first (RFC 7301)."""


def bind(host: str, port: int) -> list[socket.socket]:
    """Opens the listening sockets of a server; whoever calls owns them until an `HTTPServer` serves them.

    Args:
        host: An IPv4 or IPv6 address, or a name; a name with several addresses (`localhost`) gets a socket for each.
            `"::"` listens on IPv4 too, where the system can.
        port: 0 picks a free one.

    Returns:
        Non-blocking sockets that listen already. `getsockname()` tells the picked port.

    Raises:
        OSError: The address cannot be had; the message names it and the way out.
        ConfigurationError: The port is not between 0 and 65535.
    """
    if not 0 <= port <= 65535:
        raise ConfigurationError(f"a port is between 0 and 65535, not {port}")
    sockets: list[socket.socket] = []
    failure: OSError | None = None
    for family, address in _resolve(host, port):
        # The first socket's port is the port of them all, also when it was picked by the system.
        port = sockets[0].getsockname()[1] if sockets else port
        try:
            sockets.append(_listen(family, address, port, dual_stack=host == "::"))
        except OSError as error:
            failure = failure or _explained(error, host, port)
            if error.errno != errno.EADDRNOTAVAIL:  # "localhost" may name ::1 on a machine without IPv6
                break
    if failure is not None and (not sockets or failure.errno != errno.EADDRNOTAVAIL):
        close_all(sockets)
        raise failure
    return sockets


def close_all(sockets: list[socket.socket]) -> None:
    """Closes listening sockets that no server took over."""
    for sock in sockets:
        sock.close()


def _resolve(host: str, port: int) -> list[tuple[socket.AddressFamily, str]]:
    """The addresses that a host names, in the resolver's order, each once."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise OSError(errno.EADDRNOTAVAIL, f"cannot listen on {_spell(host, port)}: no such host ({error})") from error
    return list(dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found))


def _listen(family: socket.AddressFamily, address: str, port: int, *, dual_stack: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform != "win32":  # there it would let two processes share the port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            only_ipv6 = not (dual_stack and socket.has_dualstack_ipv6())
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(only_ipv6))
        sock.setblocking(False)
        sock.bind((address, port))
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _explained(error: OSError, host: str, port: int) -> OSError:
    advice = ADVICE.get(error.errno or 0, error.strerror)
    return OSError(error.errno, f"cannot listen on {_spell(host, port)}: {advice}")


def _spell(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


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
    for parameter, path in (("certfile", certfile), ("keyfile", key)):
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            raise ConfigurationError(f"{parameter} {fspath(path)!r} cannot be read: {error.strerror}") from error
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(list(ALPN))
    _load(context, fspath(certfile), fspath(key))
    return context


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


class Streams(Protocol):
    """The accepted sockets of one server, on the backend that is running."""

    async def run(self) -> None:
        """What its streams need while there is one; returns at once where they need nothing."""
        ...

    async def open(self, sock: socket.socket) -> ClientStream:
        """The stream of a connected, non-blocking socket, which it owns from here on."""
        ...


def streams() -> Streams:
    """Those of the running backend; the other backend's code is not loaded."""
    if current_backend() == "trio":
        from .trio_stream import TrioStreams

        return TrioStreams()
    from .asyncio_stream import AsyncioStreams

    return AsyncioStreams()
