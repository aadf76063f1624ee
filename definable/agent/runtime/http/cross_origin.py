"""Which web pages may call the service: pure.

A browser sends requests for whatever page it shows, from its user's place in the network. The `BrowserGate` asks here
before anything answers: a page of another origin may call only where `serve(cors=[...])` names its origin.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from definable.errors import ConfigurationError

from .problem import Problem

if TYPE_CHECKING:
    from .server.asgi import Scope

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
