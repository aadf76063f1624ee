"""What trusted proxies say of the client: its address, scheme and host. Pure, but for `TrustedProxies`.

`Forwarded` (RFC 7239), or the older `X-Forwarded-For`, `-Proto` and `-Host`. Anybody may send them, so they count from
the addresses of `serve(trusted_proxies=[...])` alone.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeAlias

from definable.errors import ConfigurationError

if TYPE_CHECKING:
    from .server.asgi import ASGIApp, Receive, Scope, Send

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

HOST = re.compile(rb"[A-Za-z0-9._~-]+(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](?::[0-9]{1,5})?")

PAIR = re.compile(r'\s*([A-Za-z]+)=(?:"([^"]*)"|([^\s";,]*))\s*')


class TrustedProxies:
    """An ASGI application around another, which sees the client that a trusted proxy names.

    Args:
        app: The application.
        proxies: Addresses and networks of the proxies.
        root_path: The prefix under which a proxy serves the application, whether it takes it off or not.
    """

    def __init__(self, app: ASGIApp, proxies: Iterable[str], root_path: str) -> None:
        self._app = app
        self._networks = checked_networks(proxies)
        self._root_path = checked_root_path(root_path)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have one request answered."""
        scope = {**scope, "root_path": self._root_path or scope.get("root_path", "")}
        client = scope.get("client")
        if client is not None and is_trusted(client[0], self._networks):
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
    """The networks of `trusted_proxies`.

    Raises:
        ConfigurationError: One is none.
    """
    networks: list[Network] = []
    for proxy in proxies:
        try:
            networks.append(ipaddress.ip_network(proxy))
        except ValueError as error:
            raise ConfigurationError(
                f"trusted_proxies: {proxy!r} is no address or network, such as '127.0.0.1' or '10.0.0.0/8': {error}"
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
