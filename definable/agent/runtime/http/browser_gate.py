"""What a browser's request is asked before anything answers it: who sent the page, and by which name it came here."""

from __future__ import annotations

import logging

from .cross_origin import (
    Headers,
    OriginPolicy,
    brings_ambient_credentials,
    foreign_page,
    is_visit,
)
from .host_names import HostPolicy, host_name, unknown_host
from .problem import Problem
from .server.asgi import WHOLE_RESPONSE, Message, Scope, Send

logger: logging.Logger = logging.getLogger("definable.http")

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
