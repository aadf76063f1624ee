"""What a server listens on: an address, a Unix socket or an inherited socket; and the streams of the running backend.

All of it fails before anything else has started: a busy port is one plain `OSError`.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Protocol, TypeAlias

from definable.concurrency.event_loop import current_backend
from definable.errors import ConfigurationError

from .transport import ClientStream

Address: TypeAlias = tuple[str, int | None] | None
"""A host and port, or a Unix socket's path and None (ASGI, "server"); None where there is no name, as for the client of
a Unix socket."""

BACKLOG = 1024
"""Connections that the kernel holds for us between two accepts."""

ADVICE = {
    errno.EADDRINUSE: "the port is in use: stop the process that has it, or choose another (port=0 picks a free one)",
    errno.EADDRNOTAVAIL: 'this machine has no such address: use "127.0.0.1", or "0.0.0.0" for all of them',
    errno.EACCES: "ports below 1024 need privileges: choose a higher one",
}
"""The way out of the failures that users meet."""

UNIX_ADVICE = {
    errno.EADDRINUSE: "a process listens there: stop it, or choose another path",
    errno.EEXIST: "there is a file that is no socket: choose another path",
    errno.ENOENT: "there is no such directory: make it, or let systemd do so (RuntimeDirectory=)",
    errno.EACCES: "this user may not write to its directory",
    errno.ENAMETOOLONG: "a Unix socket's path is at most 107 bytes long (103 on macOS)",
}
"""As `ADVICE`, of Unix sockets."""

DEFAULT_MODE = 0o666
"""Permissions of a Unix socket: as a port of loopback, it is for everybody on the machine who gets to its directory."""

LOCK_ATTEMPTS, LOCK_PAUSE = 50, 0.02
"""How often, and seconds apart, the lock of a Unix socket's directory is tried; then it is somebody else's affair."""


BoundAddress: TypeAlias = tuple[str, int] | tuple[str | None, int, int | None]
"""Where a server listens: at a host and port, or at a Unix socket's path with its permissions, or at the descriptor of
an inherited socket."""


def listen(address: BoundAddress) -> list[socket.socket]:
    """Opens the listening sockets of a server; raises as `bind`, `bind_unix` and `inherited` do."""
    if len(address) == 2:
        return bind(*address)
    path, mode, descriptor = address
    if descriptor is not None:
        return [inherited(descriptor, f"fd={descriptor}")]
    assert path is not None
    return [bind_unix(path, mode)]


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


class UnixListener(socket.socket):
    """A listening Unix socket that takes its file with it when it is closed, by the process that has bound it."""

    __slots__ = ("_owner", "_path", "_status")

    def __init__(self) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM)
        self._owner = 0

    def listen_at(self, path: str, mode: int) -> None:
        """Bind a path and listen there."""
        self.setblocking(False)
        self.bind(path)
        self._path, self._status, self._owner = os.path.abspath(path), os.stat(path), os.getpid()
        os.chmod(path, mode)  # before anybody can connect
        self.listen(BACKLOG)

    def close(self) -> None:
        # Before it is closed: no other file can have the number of ours as long as the socket is open.
        if self._owner == os.getpid() and self.fileno() >= 0:
            with suppress(OSError):  # the file is gone, or its directory is
                if os.path.samestat(os.stat(self._path), self._status):
                    os.unlink(self._path)
        super().close()


def bind_unix(path: str, mode: int = DEFAULT_MODE) -> socket.socket:
    """Opens a listening Unix socket. A file that an ended server has left there is replaced.

    Args:
        path: Where; relative to the working directory.
        mode: Who may connect, as `chmod` has it: those who may write.

    Returns:
        A non-blocking socket that listens already. Closing it removes its file.

    Raises:
        OSError: The path cannot be had, say since a process listens there; the message names it and the way out.
        ConfigurationError: This system has no Unix sockets.
    """
    if not hasattr(socket, "AF_UNIX"):
        raise ConfigurationError(f"uds={path!r}: this system has no Unix sockets")
    listener = UnixListener()
    try:
        with _locked(os.path.dirname(os.path.abspath(path))):
            _remove_stale(path)
            listener.listen_at(path, mode)
    except OSError as error:
        listener.close()
        number = errno.ENAMETOOLONG if error.errno is None else error.errno  # None: Python looks at the length itself
        advice = UNIX_ADVICE.get(number, error.strerror)
        raise OSError(number, f"cannot listen on unix:{path}: {advice}") from None
    return listener


def _remove_stale(path: str) -> None:
    """Remove a socket's file where nobody listens on it."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:  # its backlog is full
            pass
    raise OSError(errno.EADDRINUSE, "in use")


@contextmanager
def _locked(directory: str) -> Generator[None]:
    """Hold the lock of a directory: of two servers that start at once, one finds the other's socket in use."""
    import fcntl  # POSIX only, as Unix sockets are here

    descriptor = os.open(directory, os.O_RDONLY)
    try:
        for _ in range(LOCK_ATTEMPTS):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                time.sleep(LOCK_PAUSE)
        yield
    finally:
        os.close(descriptor)


def inherited(descriptor: int, source: str) -> socket.socket:
    """Takes over a listening socket that this process was started with; it is closed with the server.

    Args:
        descriptor: Of the socket.
        source: What gave it, for errors.

    Raises:
        ConfigurationError: It is no listening stream socket.
    """
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        raise ConfigurationError(f"{source} is no socket of this process: {error.strerror}") from None
    if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.detach()  # it was not taken over
        raise ConfigurationError(f"{source} is no listening stream socket (of systemd: ListenStream=, Accept=no)")
    os.set_inheritable(descriptor, False)
    sock.setblocking(False)
    return sock


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
