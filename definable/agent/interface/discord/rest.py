"""Discord's HTTP API, as far as a chat with an agent needs it: within the rate limits, and tried again."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

import anyio
import httpx2

import definable
from definable.agent.interface.errors import (
    InterfaceAuthenticationError,
    InterfaceConnectionError,
    InterfaceError,
    InterfaceMessageError,
    InterfaceRateLimitError,
    retried,
)
from definable.agent.interface.http_client import PlatformClient, number, open_client
from definable.concurrency.backoff import Backoff

from .config import DiscordConfig
from .gateway import GatewayInfo, read_gateway_info
from .rate_limit import RateLimits, Route

DEFAULT_RETRY_AFTER = 1.0
"""Seconds, where a 429 does not say how long."""

UNKNOWN_CHANNEL, UNKNOWN_MESSAGE = 10003, 10008
"""Codes: it was deleted, or the bot never saw it (Discord's "Opcodes and Status Codes", JSON)."""

HIDDEN_HISTORY = 160002, 160009
"""Codes: cannot reply to, or refer to, a message without permission to read the message history (Discord's "Opcodes and
Status Codes", JSON)."""

REQUEST_TIMEOUT = 15.0
"""Seconds for the API to answer."""

RETRY_BACKOFF = Backoff(initial=0.5, jitter=0.25, max_tries=5, max_retry_after=60.0)
"""Five tries stay well within the few minutes for which Discord knows a nonce."""

LONGEST_POST_WAIT = 600.0
"""Seconds: a message waits for a limit of minutes, say a slow mode of its channel, rather than to be lost."""

EDIT_BACKOFF = replace(RETRY_BACKOFF, max_tries=1, max_retry_after=2.0)
"""An edit that waits longer is better made later, with the text of then."""

MAX_IMAGE_SIZE = 20 * 1024 * 1024
"""Bytes of an image that is fetched."""

MESSAGE = "/channels/{channel}/messages/{message}"

USER_AGENT = f"DiscordBot (https://pypi.org/project/definable, {definable.__version__})"
"""In the form that Discord's "Reference", User Agent, asks for."""


class DiscordRefusal(InterfaceMessageError):
    """Discord refuses a request.

    Args:
        message: What happened.
        status: Of the answer.
        code: Discord's own ("Opcodes and Status Codes", JSON); 0 where it has none.
    """

    def __init__(self, message: str, status: int, code: int) -> None:
        super().__init__(message, status=status, platform="discord")
        self.code = code


class DiscordRateLimitError(InterfaceRateLimitError):
    """A 429.

    Args:
        message: What happened.
        retry_after: Seconds until the request may be made again.
        is_global: Whether no route may be asked until then.
    """

    def __init__(self, message: str, retry_after: float, *, is_global: bool) -> None:
        super().__init__(message, retry_after=retry_after)
        self.is_global = is_global


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that goes with a message."""

    filename: str
    data: bytes = field(repr=False)
    media_type: str


class DiscordRest:
    """The API's client. Every request may be sent twice: those that create carry a nonce.

    Args:
        client: Made by `open_rest`.
    """

    def __init__(self, client: PlatformClient) -> None:
        self._client = client
        self._limits = RateLimits()

    async def gateway(self) -> GatewayInfo:
        """Where the gateway is, and how many sessions may still be started (`GET /gateway/bot`)."""
        response = await self._request(Route("GET", "/gateway/bot"))
        try:
            body: Any = response.json()
        except ValueError as error:
            raise InterfaceConnectionError("GET /gateway/bot was not answered as Discord's API does") from error
        return read_gateway_info(body)

    async def create_message(
        self, channel: str, message: Mapping[str, Any], uploads: Sequence[Upload] = ()
    ) -> str | None:
        """Post a message (`POST /channels/{channel}/messages`), once however often it must be tried.

        Args:
            channel: The channel's id.
            message: What the API takes; with a nonce.
            uploads: Files to go with it.

        Returns:
            The message's id, if Discord says it.
        """
        route = Route("POST", "/channels/{channel}/messages", channel)
        backoff = replace(RETRY_BACKOFF, max_retry_after=LONGEST_POST_WAIT)
        response = await self._request(route, message, uploads, backoff)
        return read_id(response.content)

    async def edit_message(self, channel: str, message: str, changes: Mapping[str, Any]) -> None:
        """Edit a message (`PATCH /channels/{channel}/messages/{message}`); tried once."""
        await self._request(Route("PATCH", MESSAGE, channel, message), changes, backoff=EDIT_BACKOFF)

    async def delete_message(self, channel: str, message: str) -> None:
        """Delete a message (`DELETE /channels/{channel}/messages/{message}`); tried once."""
        await self._request(Route("DELETE", MESSAGE, channel, message), backoff=EDIT_BACKOFF)

    async def trigger_typing(self, channel: str) -> None:
        """Show for ten seconds that the bot is typing (`POST /channels/{channel}/typing`)."""
        await self._request(Route("POST", "/channels/{channel}/typing", channel))

    async def fetch(self, url: str) -> bytes | None:
        """Fetch an attachment from Discord's CDN, which needs no token and gets none; None when it is too large.

        Raises:
            InterfaceError: It is gone, or could not be fetched.
        """
        return await self._client.download(url, MAX_IMAGE_SIZE)

    async def _request(
        self,
        route: Route,
        body: Mapping[str, Any] | None = None,
        uploads: Sequence[Upload] = (),
        backoff: Backoff | None = None,
    ) -> httpx2.Response:
        """Send a request, again while that may help.

        Raises:
            InterfaceAuthenticationError: 401.
            InterfaceRateLimitError: The limit lasts too long, or is met again and again.
            DiscordRefusal: Discord refuses the request (400, 403, 404 ...).
            InterfaceConnectionError: Discord cannot be reached or fails within.
        """
        backoff = backoff or RETRY_BACKOFF
        once = partial(self._request_once, route, _content(body, uploads), backoff.max_retry_after)
        return await retried(once, backoff, InterfaceConnectionError, InterfaceRateLimitError)

    async def _request_once(self, route: Route, content: Mapping[str, Any], longest_wait: float) -> httpx2.Response:
        await self._wait_for_limits(route, longest_wait)
        response = await self._client.request(route.method, route.path, **content)
        self._limits.learn(route, response.headers, anyio.current_time())
        if response.is_success:
            return response
        error = error_of(f"{route.method} {route.path}", response.status_code, response.headers, response.content)
        if isinstance(error, DiscordRateLimitError):
            wait = error.retry_after or 0.0
            self._limits.refused(route, wait, anyio.current_time(), is_global=error.is_global)
        raise error

    async def _wait_for_limits(self, route: Route, longest_wait: float) -> None:
        while (wait := self._limits.take(route, anyio.current_time())) > 0:
            if wait > longest_wait:
                raise InterfaceRateLimitError(
                    f"{route.method} {route.path}: Discord rate limit: retry in {wait:.0f} s", retry_after=wait
                )
            await anyio.sleep(wait)


@asynccontextmanager
async def open_rest(config: DiscordConfig) -> AsyncGenerator[DiscordRest]:
    """A client of the API while the context is open."""
    async with open_client(
        "Discord",
        config.base_url,
        headers={"Authorization": f"Bot {config.bot_token}", "User-Agent": USER_AGENT},
        connect_timeout=config.connect_timeout,
        request_timeout=REQUEST_TIMEOUT,
        proxy=config.proxy,
    ) as client:
        yield DiscordRest(client)


def error_of(where: str, status: int, headers: Mapping[str, str], body: bytes) -> InterfaceError:
    """What an answer that is no success means.

    Args:
        where: Method and path.
        status: Of the answer; 400 or more, or a redirect.
        headers: Looked up in lower case.
        body: JSON from Discord, a page from the proxies before it.
    """
    document = _document(body)
    words = f"{where}: {status} {_words(document)}".rstrip()
    match status:
        case 401:
            return InterfaceAuthenticationError(f"Discord refuses the bot's token ({words})")
        case 429:
            asked = number(document.get("retry_after")), number(headers.get("retry-after")), DEFAULT_RETRY_AFTER
            retry_after = next(seconds for seconds in asked if seconds is not None)
            # A proxy's 429 is no JSON: it has shut out the address, whatever is asked.
            is_global = document.get("global") is True or "x-ratelimit-global" in headers or not document
            return DiscordRateLimitError(words, retry_after, is_global=is_global)
        case _ if status >= 500:
            return InterfaceConnectionError(words, status=status)
        case _:
            return DiscordRefusal(words, status, int(number(document.get("code")) or 0))


def _words(document: dict[str, Any]) -> str:
    message, code = document.get("message"), document.get("code")
    words = message if isinstance(message, str) else ""
    details = json.dumps(document["errors"])[:300] if "errors" in document else ""
    return " ".join(part for part in (words, f"(code {code})" if code else "", details) if part)


def _document(body: bytes) -> dict[str, Any]:
    try:
        parsed: object = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", parsed) if isinstance(parsed, dict) else {}


def read_id(body: bytes) -> str | None:
    """The id of what Discord answers with; None when it has none."""
    id: object = _document(body).get("id")
    return id if isinstance(id, str) and id.isdecimal() else None


def _content(body: Mapping[str, Any] | None, uploads: Sequence[Upload]) -> dict[str, Any]:
    """A request's body as httpx2's arguments: JSON, or a form with files (Discord's "Reference", Uploading Files)."""
    if body is None:
        return {}
    if not uploads:
        return {"json": body}
    files = [
        (f"files[{index}]", (upload.filename, upload.data, upload.media_type)) for index, upload in enumerate(uploads)
    ]
    return {"data": {"payload_json": json.dumps(body)}, "files": files}
