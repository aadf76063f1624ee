"""What a browser's request is asked before anything answers it: who sent the page, and by which name it came here.

Which web pages may call the service: pure.

A browser sends requests for whatever page it shows, from its user's place in the network. The `BrowserGate` asks here
before anything answers: a page of another origin may call only where `serve(cors=[...])` names its origin.

By which host names the service may be called: pure.

A page whose name was made to lead to this machine (DNS rebinding) is of the same origin as the service, for a browser;
only the `Host` that it sends gives it away. So a service that is bound to a loopback address, which browsers of this
machine alone can reach, answers to names of this machine.
"""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from definable.concurrency.logs import logger_named
from definable.errors import ConfigurationError
from definable.server.problem import Problem
from definable.server.request_cycle import WHOLE_RESPONSE, Message, Scope, Send

if TYPE_CHECKING:
    from definable.server.request_cycle import Scope


MAX_KNOWN = 256
"""Names whose answer is remembered."""


class HostPolicy:
    """Knows the host names that a service answers to.

    Always among them: IP addresses, `localhost` and all below it (RFC 6761, 6.3), which no name server redirects, and
    names without a dot (a container's, one of `/etc/hosts`), which nobody can register.

    Args:
        allowed: Further names, without a port; `"*.app.example"` is every name below, `"*"` is every name.

    Raises:
        ConfigurationError: One is no host name.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        names = [checked_name(name) for name in allowed]
        self._any = "*" in names
        self._names = frozenset(name for name in names if not name.startswith("*"))
        self._endings = (".localhost", *(name[1:] for name in names if name.startswith("*.")))
        self.allows: Callable[[bytes], bool] = lru_cache(MAX_KNOWN)(self._allows)
        """Whether the service answers to the value of a `Host` header."""

    def _allows(self, host: bytes) -> bool:
        name = host_name(host.decode("latin-1"))
        if self._any or name in self._names or name.endswith(self._endings):
            return True
        return is_address(name) or (name != "" and "." not in name and ":" not in name)


def host_name(host: str) -> str:
    """The name or address in a `Host` header (RFC 9110, 7.2), in lower case."""
    if host.startswith("["):
        return host.partition("]")[0][1:].lower()
    return host.partition(":")[0].lower().removesuffix(".")


def is_address(name: str) -> bool:
    """Whether a host is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(address: str) -> bool:
    """Whether an address can be reached from this machine alone; a Unix socket's path is none."""
    return is_address(address) and ipaddress.ip_address(address).is_loopback


def checked_name(name: str) -> str:
    """A host name of `allowed_hosts`.

    Raises:
        ConfigurationError: It is none: it has a scheme, a port or a path, or is empty.
    """
    if not isinstance(name, str) or not name or set(name) & set("/:@ ") or "*" in name.removeprefix("*."):  # pyright: ignore[reportUnnecessaryIsInstance]
        if name != "*":
            raise ConfigurationError(
                f"allowed_hosts: {name!r} is no host name: without scheme and port, such as 'app.example'"
            )
    return name.lower().removesuffix(".")


def unknown_host(host: bytes) -> Problem:
    """The problem of a request for a name that the service does not answer to (RFC 9110, 15.5.20)."""
    name = host_name(host[:300].decode("latin-1"))
    return Problem(
        421,
        f"this service does not answer to the host {name!r}: its operator allows names with serve(allowed_hosts=[...])",
    )


ANY = "*"

ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[^\s/:@?#\[\]*,]+)(?::([0-9]{1,5}))?/?", re.IGNORECASE)

DEFAULT_PORTS = {"http": "80", "https": "443"}
"""Left out of a serialised origin (https://url.spec.whatwg.org/#host-serializing)."""

EXPOSED = (
    b"access-control-expose-headers",
    b"Location, Link, Retry-After, WWW-Authenticate, Preference-Applied, Allow",
)
"""The headers that a page may read beyond the few that every page may."""

PREFLIGHT_SECONDS = b"600"
"""How long a browser may remember what a preflight was answered."""

AMBIENT_SCHEMES = (b"basic ", b"digest ", b"negotiate ", b"ntlm ")
"""Credentials that a browser sends along by itself, whatever page asks (RFC 9110, 11; RFC 4559)."""

Headers = Mapping[bytes, bytes]
"""A request's headers; of a repeated one the last. Those that are asked for here are the browser's own to write."""


class OriginPolicy:
    """Tells requests of other origins' pages, and answers preflights (https://fetch.spec.whatwg.org/#http-cors-protocol).

    Args:
        origins: The origins whose pages may call, such as `"https://app.example"`; `"*"` is every origin, whose pages
            then have no cookies sent along.

    Raises:
        ConfigurationError: One is no origin.
    """

    def __init__(self, origins: Iterable[str] = ()) -> None:
        checked = [checked_origin(origin) for origin in origins]
        self._any = ANY in checked
        self._origins = frozenset(origin.encode() for origin in checked)

    def allows(self, origin: bytes) -> bool:
        """Whether pages of an origin may call."""
        return self._any or origin in self._origins

    def is_foreign(self, headers: Headers) -> bool:
        """Whether a page of another origin sent a request, and may not.

        Requests with neither `Origin` nor `Sec-Fetch-Site` (https://www.w3.org/TR/fetch-metadata/) are no page's, or
        cannot be told from those. `Origin` is compared without its scheme, since a proxy may have taken TLS off.
        """
        origin = headers.get(b"origin")
        if self._any or (origin is not None and origin in self._origins):
            return False
        site = headers.get(b"sec-fetch-site")
        if site is not None:
            return site not in (b"same-origin", b"none")
        return origin is not None and origin.partition(b"://")[2] != headers.get(b"host", b"").lower()

    def preflight(self, scope: Scope, headers: Headers) -> list[tuple[bytes, bytes]] | None:
        """The answer to a preflight of a page that may call; None where the request is none.

        Raises:
            Problem: 403, it asks for a page that may not call.
        """
        method = headers.get(b"access-control-request-method")
        if scope["method"] != "OPTIONS" or method is None or b"origin" not in headers:
            return None
        if not self.allows(headers[b"origin"]):
            raise foreign_page(headers)
        asked = headers.get(b"access-control-request-headers")
        from_elsewhere = headers.get(b"access-control-request-private-network") == b"true"
        return [
            (b"access-control-allow-methods", method),
            *([] if asked is None else [(b"access-control-allow-headers", asked)]),
            # https://wicg.github.io/private-network-access/: a public page asks for a service of this network
            *([(b"access-control-allow-private-network", b"true")] if from_elsewhere else []),
            (b"access-control-max-age", PREFLIGHT_SECONDS),
            (b"vary", b"Access-Control-Request-Method, Access-Control-Request-Headers"),
        ]

    def response_headers(self, origin: bytes | None) -> list[tuple[bytes, bytes]]:
        """What every response says, also an error's, so that the page may read it and no cache gives it to another.

        Args:
            origin: Of the page that asked; None where the request names none.
        """
        if self._any:
            return [(b"access-control-allow-origin", b"*"), EXPOSED]
        if not self._origins:
            return []
        vary = (b"vary", b"Origin")
        if origin is None or origin not in self._origins:
            return [vary]
        return [(b"access-control-allow-origin", origin), (b"access-control-allow-credentials", b"true"), EXPOSED, vary]


def checked_origin(origin: str) -> str:
    """An origin as browsers write it.

    Raises:
        ConfigurationError: It is none.
    """
    if origin == ANY:
        return origin
    found = ORIGIN.fullmatch(origin) if isinstance(origin, str) else None  # pyright: ignore[reportUnnecessaryIsInstance]
    if found is None:
        raise ConfigurationError(f"cors: {origin!r} is no origin: scheme, host and port, such as 'https://app.example'")
    scheme, host, port = found[1].lower(), found[2].lower(), found[3]
    return f"{scheme}://{host}" if port in (None, DEFAULT_PORTS.get(scheme)) else f"{scheme}://{host}:{port}"


def brings_ambient_credentials(headers: Headers) -> bool:
    """Whether a request has credentials that the browser may have added without the page knowing them."""
    return b"cookie" in headers or headers.get(b"authorization", b"").lower().startswith(AMBIENT_SCHEMES)


def is_visit(scope: Scope, headers: Headers) -> bool:
    """Whether somebody goes to a page: a link was followed, or another site redirected (OAuth does so)."""
    return (
        scope["type"] == "http"
        and scope["method"] in ("GET", "HEAD")
        and headers.get(b"sec-fetch-mode") == b"navigate"
        and headers.get(b"sec-fetch-dest") == b"document"
    )


def foreign_page(headers: Headers) -> Problem:
    """The problem of a request that a page of another origin sent."""
    origin = headers.get(b"origin")
    who = "a page of another origin" if origin is None else f"a page of {origin[:200].decode('latin-1')}"
    return Problem(403, f"{who} may not call this service: its operator allows origins with serve(cors=[...])")


logger: logging.Logger = logger_named("definable.http")

MAX_REPORTED = 20
"""Origins and hosts whose refusal is logged, each once: outsiders write them."""

OURS = frozenset({b"access-control-allow-origin", b"access-control-allow-credentials"})
"""Response headers of which a browser takes one alone."""


class BrowserGate:
    """Refuses what a browser sends for a page that may not call, and lets the other pages read what is answered.

    Args:
        origins: Whose pages may call.
        hosts: The names that the service answers to; None for every name.
    """

    def __init__(self, origins: OriginPolicy, hosts: HostPolicy | None = None) -> None:
        self._origins = origins
        self._adds_headers = bool(origins.response_headers(None))
        self.hosts: HostPolicy | None = hosts
        """Set when it is known where the service is bound."""
        self._reported: set[bytes] = set()

    def concerns(self, headers: Headers) -> bool:
        """Whether there is anything to ask; not of what `curl` or another service sends."""
        return b"origin" in headers or b"sec-fetch-site" in headers or self._adds_headers or self.hosts is not None

    def check_host(self, headers: Headers) -> None:
        """Refuse a request for a name that the service does not answer to.

        Raises:
            Problem: 421.
        """
        host = headers.get(b"host")
        if self.hosts is None or host is None or self.hosts.allows(host):
            return
        self._report(host, "allowed_hosts", host_name(host[:300].decode("latin-1")))
        raise unknown_host(host)

    def check_page(self, scope: Scope, headers: Headers, *, is_guarded: bool, takes_visits: bool) -> None:
        """Refuse a request that its page may not send.

        A guarded endpoint asks for credentials, which pages of other origins do not have; so it is closed only to
        credentials that the browser adds by itself.

        Args:
            scope: The request, or the handshake of a WebSocket.
            headers: Its headers.
            is_guarded: Whether an auth provider guards what it is for.
            takes_visits: Whether other sites may link to it: a GET has no effect there.

        Raises:
            Problem: 403.
        """
        if not self._origins.is_foreign(headers) or (takes_visits and is_visit(scope, headers)):
            return
        if not is_guarded or brings_ambient_credentials(headers):
            self._report_page(headers)
            raise foreign_page(headers)

    def preflight(self, scope: Scope, headers: Headers) -> list[tuple[bytes, bytes]] | None:
        """The answer to a preflight; None where the request is none.

        Raises:
            Problem: 403, it asks for a page that may not call.
        """
        try:
            return self._origins.preflight(scope, headers)
        except Problem:
            self._report_page(headers)
            raise

    def readable(self, send: Send, headers: Headers) -> Send:
        """An ASGI `send` whose response the page may read, if it may call."""
        extra = self._origins.response_headers(headers.get(b"origin"))
        return with_headers(send, extra) if extra else send

    def _report_page(self, headers: Headers) -> None:
        origin = headers.get(b"origin")
        if origin not in (None, b"null"):  # else there is nothing that `cors` could name
            self._report(origin, "cors", origin[:300].decode("latin-1"))

    def _report(self, sender: bytes, option: str, name: str) -> None:
        if sender[:300] in self._reported or len(self._reported) >= MAX_REPORTED:
            return
        self._reported.add(sender[:300])
        what = "a request for the host" if option == "allowed_hosts" else "a request of a web page from"
        logger.warning("%s %r was refused; to allow it: serve(%s=[%r])", what, name, option, name)


def with_headers(send: Send, extra: list[tuple[bytes, bytes]]) -> Send:
    """An ASGI `send` that adds headers to the response, in place of the application's own where one may be there."""
    replaced = OURS & {name for name, _ in extra}

    async def send_with_headers(message: Message) -> None:
        if message["type"] in ("http.response.start", WHOLE_RESPONSE):
            kept = [(name, value) for name, value in message.get("headers", ()) if name.lower() not in replaced]
            message = {**message, "headers": [*kept, *extra]}
        await send(message)

    return send_with_headers
