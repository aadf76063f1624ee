"""Discord's HTTP API, as far as a chat with an agent needs it: over httpx2, within the rate limits, tried again.

What an answer of the HTTP API that is no success means: pure.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
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
)
from definable.concurrency.backoff import Backoff
from definable.half_read_body import may_be_half_read

from .config import DiscordConfig
from .gateway import GatewayInfo, read_gateway_info
from .rate_limit import RateLimits, Route, number

DEFAULT_RETRY_AFTER = 1.0
"""Seconds, where a 429 does not say how long."""

HIDDEN_HISTORY = 160002, 160009
"""Codes: cannot reply to, or refer to, a message without permission to read the message history (Discord's "Opcodes and
Status Codes", JSON)."""


class ReplyRefused(InterfaceMessageError):
    """The bot may write in the channel, and not read its history: it cannot show a message as a reply."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One try that failed."""

    error: InterfaceError
    transient: bool
    """Whether the same request may succeed later."""
    retry_after: float | None = None
    """Of a 429: seconds until it may be sent again."""
    is_global: bool = False
    """Of a 429: whether it is about all routes."""


def explain(where: str, status: int, headers: Mapping[str, str], body: bytes) -> Failure:
    """Say what an answer means.

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
            return Failure(InterfaceAuthenticationError(f"Discord refuses the bot's token ({words})"), transient=False)
        case 429:
            return _limited(words, headers, document)
        case 400 | 403 if document.get("code") in HIDDEN_HISTORY:
            return Failure(ReplyRefused(words, status=status), transient=False)
        case _ if status >= 500:
            return Failure(InterfaceConnectionError(words, status=status), transient=True)
        case _:
            return Failure(InterfaceMessageError(words, status=status), transient=False)


def unfetched(status: int) -> InterfaceError:
    """What an answer of the CDN that is no file means."""
    words = f"an attachment could not be fetched: Discord's CDN says {status}"
    if status == 429 or status >= 500:
        return InterfaceConnectionError(words, status=status)
    return InterfaceMessageError(words, status=status)


def _limited(words: str, headers: Mapping[str, str], document: dict[str, Any]) -> Failure:
    retry_after = number(document.get("retry_after"))
    if retry_after is None:
        retry_after = number(headers.get("retry-after"))
    if retry_after is None:
        retry_after = DEFAULT_RETRY_AFTER
    # A proxy's 429 is no JSON: it has shut out the address, whatever is asked.
    is_global = document.get("global") is True or "x-ratelimit-global" in headers or not document
    error = InterfaceRateLimitError(words, retry_after=retry_after)
    return Failure(error, transient=True, retry_after=retry_after, is_global=is_global)


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


logger: logging.Logger = logging.getLogger(__name__)

REQUEST_TIMEOUT = 15.0
"""Seconds for the API to answer."""

MAX_TRIES = 5

RETRY_BACKOFF = Backoff(initial=0.5, jitter=0.25)
"""Five tries stay well within the few minutes for which Discord knows a nonce."""

MAX_WAIT = 60.0
"""Seconds: a rate limit that lasts longer fails the request at once."""

EDIT_PATIENCE = 2.0
"""Seconds, as `MAX_WAIT`: an edit that waits longer is better made later, with the text of then."""

MAX_IMAGE_SIZE = 20 * 1024 * 1024
"""Bytes of an image that is fetched."""

MESSAGE = "/channels/{channel}/messages/{message}"

LIMITS = httpx2.Limits(max_connections=50, max_keepalive_connections=10, keepalive_expiry=60.0)

USER_AGENT = f"DiscordBot (https://pypi.org/project/definable, {definable.__version__})"
"""In the form that Discord's "Reference", User Agent, asks for."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that goes with a message."""

    filename: str
    data: bytes = field(repr=False)
    media_type: str


class DiscordRest:
    """The API's client. Every request may be sent twice: those that create carry a nonce.

    Args:
        config: The bot's.
        client: Open; authenticated as the bot.
        limits: What is known of the rate limits.
    """

    def __init__(self, config: DiscordConfig, client: httpx2.AsyncClient, limits: RateLimits | None = None) -> None:
        self._client = client
        self._base_url = config.base_url.rstrip("/")
        self._limits = RateLimits() if limits is None else limits

    async def gateway(self) -> GatewayInfo:
        """Where the gateway is, and how many sessions may be begun still (`GET /gateway/bot`)."""
        response = await self._request(Route("GET", "/gateway/bot"))
        try:
            body: Any = response.json()
        except ValueError as error:
            raise InterfaceConnectionError(f"{self._base_url} does not answer like Discord's API") from error
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
        response = await self._request(Route("POST", "/channels/{channel}/messages", channel), message, uploads)
        return read_id(response.content)

    async def edit_message(self, channel: str, message: str, changes: Mapping[str, Any]) -> None:
        """Edit a message (`PATCH /channels/{channel}/messages/{message}`); tried once."""
        await self._request(Route("PATCH", MESSAGE, channel, message), changes, tries=1, patience=EDIT_PATIENCE)

    async def delete_message(self, channel: str, message: str) -> None:
        """Delete a message (`DELETE /channels/{channel}/messages/{message}`); tried once."""
        await self._request(Route("DELETE", MESSAGE, channel, message), tries=1, patience=EDIT_PATIENCE)

    async def trigger_typing(self, channel: str) -> None:
        """Show for ten seconds that the bot is typing (`POST /channels/{channel}/typing`)."""
        await self._request(Route("POST", "/channels/{channel}/typing", channel))

    async def fetch(self, url: str) -> bytes | None:
        """Fetch an attachment from Discord's CDN, which needs no token and gets none; None when it is too large.

        Raises:
            InterfaceMessageError: It is gone.
            InterfaceConnectionError: It could not be fetched.
        """
        for attempt in range(1, MAX_TRIES + 1):
            try:
                return await self._fetch_once(url)
            except InterfaceConnectionError as error:
                if attempt == MAX_TRIES:
                    raise
                logger.info("try %d failed: %s", attempt, error)
            await anyio.sleep(RETRY_BACKOFF.delay(attempt))
        raise AssertionError("the last try returns or raises")

    async def _fetch_once(self, url: str) -> bytes | None:
        request = self._client.build_request("GET", url)
        del request.headers["Authorization"]
        content = bytearray()
        try:
            async with aclosing(await self._client.send(request, stream=True)) as response:
                if not response.is_success:
                    raise unfetched(response.status_code)
                async with aclosing(response.aiter_bytes()) as chunks:
                    async for chunk in chunks:
                        content += chunk
                        if len(content) > MAX_IMAGE_SIZE:
                            return None
        except httpx2.HTTPError as error:
            words = f"an attachment could not be fetched: {type(error).__name__} {error}".rstrip()
            raise InterfaceConnectionError(words) from error
        return bytes(content)

    async def _request(
        self,
        route: Route,
        body: Mapping[str, Any] | None = None,
        uploads: Sequence[Upload] = (),
        *,
        tries: int | None = None,
        patience: float = MAX_WAIT,
    ) -> httpx2.Response:
        """Send a request, again while that may help.

        Raises:
            InterfaceAuthenticationError: 401.
            InterfaceRateLimitError: The limit lasts too long, or is met again and again.
            InterfaceMessageError: Discord refuses the request (400, 403, 404 ...).
            InterfaceConnectionError: Discord cannot be reached or fails within.
        """
        most = MAX_TRIES if tries is None else tries
        for attempt in range(1, most + 1):
            await self._wait_for_turn(route, patience)
            outcome = await self._try(route, body, uploads)
            if isinstance(outcome, httpx2.Response):
                return outcome
            if not outcome.transient or attempt == most:
                raise outcome.error
            logger.info("try %d failed: %s", attempt, outcome.error)
            if outcome.retry_after is None:
                await anyio.sleep(RETRY_BACKOFF.delay(attempt))
        raise AssertionError("the last try returns or raises")

    async def _try(
        self, route: Route, body: Mapping[str, Any] | None, uploads: Sequence[Upload]
    ) -> httpx2.Response | Failure:
        where = f"{route.method} {route.path}"
        try:
            response = await self._client.request(
                route.method, f"{self._base_url}{route.path}", **_content(body, uploads)
            )
        except httpx2.HTTPError as error:
            words = f"{where}: {type(error).__name__} {error}".rstrip()
            return Failure(InterfaceConnectionError(words), transient=True)
        self._limits.learn(route, response.headers, anyio.current_time())
        if response.is_success:
            return response
        failure = explain(where, response.status_code, response.headers, response.content)
        if failure.retry_after is not None:
            self._limits.refused(route, failure.retry_after, anyio.current_time(), is_global=failure.is_global)
        return failure

    async def _wait_for_turn(self, route: Route, patience: float) -> None:
        while (wait := self._limits.take(route, anyio.current_time())) > 0:
            if wait > patience:
                raise InterfaceRateLimitError(
                    f"{route.method} {route.path}: Discord wants {wait:.0f} s of silence", retry_after=wait
                )
            await anyio.sleep(wait)


@asynccontextmanager
async def open_rest(config: DiscordConfig) -> AsyncGenerator[DiscordRest]:
    """A client of the API while the context is open."""
    async with httpx2.AsyncClient(
        headers={"Authorization": f"Bot {config.bot_token}", "User-Agent": USER_AGENT},
        timeout=httpx2.Timeout(REQUEST_TIMEOUT, connect=config.connect_timeout),
        limits=LIMITS,
        event_hooks={"response": [may_be_half_read]},
    ) as client:
        yield DiscordRest(config, client)


def read_id(body: bytes) -> str | None:
    """The id of what Discord answers with; None when it has none."""
    try:
        id: object = json.loads(body)["id"]
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
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
