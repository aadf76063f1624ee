"""What trusted proxies say of the client: its address, scheme and host. Pure, but for `TrustedProxies`.

`Forwarded` (RFC 7239), or the older `X-Forwarded-For`, `-Proto` and `-Host`. Anybody may send them, so they count from
the addresses of `serve(trusted_proxies=[...])` alone.

One log line a request, with `serve(access_log=True)`: around the ASGI entry, behind our own server.
"""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import quote

from definable.concurrency.logs import logger_named
from definable.errors import ConfigurationError
from definable.server.request_cycle import WHOLE_RESPONSE, ASGIApp, Message, Receive, Scope, Send

if TYPE_CHECKING:
    from definable.server.request_cycle import ASGIApp, Receive, Scope, Send


logger: logging.Logger = logger_named("definable.access")

RUN_NOTE = "definable.run_note"
"""Where in a scope an endpoint notes down the run that it made: a list of ids."""

SWITCHING_PROTOCOLS, CLIENT_LEFT = 101, 499


class AccessLog:
    """An ASGI application around another, which logs what becomes of each request when it has ended.

    A line has client, method, path, status, bytes of the body (or of a WebSocket's messages) and milliseconds, each
    also as a field of its own; the run, where there is one. Never the query, where people put tokens.

    Args:
        app: The application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have one request answered, or one WebSocket served."""
        line = AccessLine(scope, send)
        try:
            await self._app(scope, receive, line.send)
        finally:
            line.write()


class AccessLine:
    """What becomes of one request."""

    __slots__ = ("_bytes", "_runs", "_scope", "_send", "_started", "_status")

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send = send
        self._started = perf_counter()
        self._status: int | None = None
        self._bytes = 0
        self._runs: list[str] = scope.setdefault(RUN_NOTE, [])

    async def send(self, message: Message) -> None:
        """The application's `send`."""
        match message["type"]:
            case "http.response.start" | "websocket.http.response.start":
                self._status = message["status"]
            case "http.response.body" | "websocket.http.response.body":
                self._bytes += len(message.get("body", b""))
            case "websocket.accept":
                self._status = SWITCHING_PROTOCOLS
            case "websocket.send":
                text = message.get("text")
                self._bytes += len(message.get("bytes") or b"") if text is None else len(text.encode())
            case "websocket.close" if self._status is None:
                self._status = 403
            case kind if kind == WHOLE_RESPONSE:
                self._status = message["status"]
                self._bytes += len(message["body"])
            case _:
                pass
        await self._send(message)

    def write(self) -> None:
        """Log the line."""
        scope = self._scope
        client = scope.get("client")
        fields = {
            "client": client[0] if client else "-",
            "method": scope["method"] if scope["type"] == "http" else "WEBSOCKET",
            "path": quote(scope["path"].encode(errors="surrogateescape"), safe="/:@!$&'()*+,;=-._~"),
            "status": CLIENT_LEFT if self._status is None else self._status,
            "bytes": self._bytes,
            "duration_ms": round((perf_counter() - self._started) * 1000, 1),
        }
        run = {"run_id": self._runs[-1]} if self._runs else {}
        logger.info("%s %s %s %d, %d bytes, %g ms", *fields.values(), extra=fields | run)


Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

HOST = re.compile(rb"[A-Za-z0-9._~-]+(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](?::[0-9]{1,5})?")

PAIR = re.compile(r'\s*([A-Za-z]+)=(?:"([^"]*)"|([^\s";,]*))\s*')


UNIX = "unix"
"""In `trusted_proxies`: whoever connects to a Unix socket, which has no addresses."""


class TrustedProxies:
    """An ASGI application around another, which sees the client that a trusted proxy names.

    Args:
        app: The application.
        proxies: Addresses and networks of the proxies, and `UNIX`.
        root_path: The prefix under which a proxy serves the application, whether it takes it off or not.
    """

    def __init__(self, app: ASGIApp, proxies: Sequence[str], root_path: str) -> None:
        self._app = app
        self._networks = checked_networks(proxies)
        self._trusts_unix = UNIX in proxies
        self._root_path = checked_root_path(root_path)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have one request answered."""
        scope = {**scope, "root_path": self._root_path or scope.get("root_path", "")}
        client = scope.get("client")
        if self._trusts_unix if client is None else is_trusted(client[0], self._networks):
            scope.update(said_of_client(scope, self._networks))
        await self._app(scope, receive, send)


def said_of_client(scope: Scope, trusted: Iterable[Network]) -> dict[str, object]:
    """What changes in the scope of a request that a trusted proxy has forwarded."""
    headers = joined(scope)
    if b"forwarded" in headers:
        hops = [dict(pairs_of(hop)) for hop in headers[b"forwarded"].decode("latin-1").split(",")]
        addresses = [hop.get("for", "") for hop in hops]
        scheme, host = hops[-1].get("proto", ""), hops[-1].get("host", "").encode("latin-1")
    else:
        addresses = headers.get(b"x-forwarded-for", b"").decode("latin-1").split(",")
        scheme = headers.get(b"x-forwarded-proto", b"").decode("latin-1").rpartition(",")[2].strip()
        host = headers.get(b"x-forwarded-host", b"").rpartition(b",")[2].strip()
    changes: dict[str, object] = {}
    client = client_of(addresses, trusted)
    if client is not None:
        changes["client"] = (client, 0)
    if scheme.lower() in ("http", "https"):
        is_websocket = scope["type"] == "websocket"
        changes["scheme"] = scheme.lower().replace("http", "ws") if is_websocket else scheme.lower()
    if HOST.fullmatch(host):
        others = [(name, value) for name, value in scope["headers"] if name != b"host"]
        changes["headers"] = [(b"host", host), *others]
    return changes


def client_of(addresses: Iterable[str], trusted: Iterable[Network]) -> str | None:
    """The client: of the addresses that each hop has added, the last that is no trusted proxy's; None without any."""
    found: str | None = None
    for given in reversed(list(addresses)):
        address = plain_address(given)
        if address is None:  # "unknown", or a name that hides it (RFC 7239, 6): what is before it is no better
            break
        found = address
        if not is_trusted(address, trusted):
            break
    return found


def plain_address(given: str) -> str | None:
    """An address without port and brackets; None for what is none."""
    text = given.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


def pairs_of(hop: str) -> Iterable[tuple[str, str]]:
    """The parameters of one element of `Forwarded`."""
    for part in hop.split(";"):
        found = PAIR.fullmatch(part)
        if found is not None:
            yield found[1].lower(), found[2] if found[2] is not None else found[3]


def joined(scope: Scope) -> Mapping[bytes, bytes]:
    """The headers of forwarding; repeated ones are one list (RFC 9110, 5.2)."""
    headers: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name == b"forwarded" or name.startswith(b"x-forwarded-"):
            headers[name] = headers[name] + b"," + value if name in headers else value
    return headers


def is_trusted(address: str, trusted: Iterable[Network]) -> bool:
    """Whether an address is one of the proxies'."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in trusted)


def checked_networks(proxies: Iterable[str]) -> list[Network]:
    """The networks of `trusted_proxies`, of which `UNIX` is none.

    Raises:
        ConfigurationError: One is none.
    """
    networks: list[Network] = []
    for proxy in proxies:
        if proxy == UNIX:
            continue
        try:
            networks.append(ipaddress.ip_network(proxy))
        except ValueError as error:
            raise ConfigurationError(
                f"trusted_proxies: {proxy!r} is neither 'unix' nor an address or a network, such as '127.0.0.1' or "
                f"'10.0.0.0/8': {error}"
            ) from None
    return networks


def checked_root_path(root_path: str) -> str:
    """The prefix of `root_path`, without a slash at its end.

    Raises:
        ConfigurationError: It is no path.
    """
    if not isinstance(root_path, str) or (root_path and not root_path.startswith("/")):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"root_path={root_path!r}: a path, such as '/agent'")
    return root_path.rstrip("/")
