"""Discord's HTTP API, as far as a chat with an agent needs it: within the rate limits, and tried again."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import anyio
import httpx2

import definable
from definable.agent.interface.errors import InterfaceConnectionError, InterfaceRateLimitError, retried
from definable.agent.interface.http_client import TOKEN, PlatformClient, open_client
from definable.concurrency.backoff import Backoff

from .config import DiscordConfig
from .errors import DiscordRateLimitError, error_of, read_id
from .gateway import GatewayInfo, read_gateway_info
from .rate_limit import RateLimits, Route

REQUEST_TIMEOUT = 15.0
"""Seconds for the API to answer."""

RETRY_BACKOFF = Backoff(initial=0.5, jitter=0.25, max_tries=5, max_retry_after=60.0)
"""Five tries stay well within the few minutes for which Discord knows a nonce."""

LONGEST_POST_WAIT = 600.0
"""Seconds: a message waits for a limit of minutes, say a slow mode of its channel, rather than to be lost."""

EDIT_BACKOFF = replace(RETRY_BACKOFF, max_tries=1, max_retry_after=2.0)
"""An edit that waits longer is better made later, with the text of then."""

QUICK_BACKOFF = replace(RETRY_BACKOFF, max_tries=2, max_retry_after=2.0)
"""Of what others wait for."""

MESSAGE = "/channels/{channel}/messages/{message}"

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
        client: Made by `open_rest`.
    """

    def __init__(self, client: PlatformClient) -> None:
        self._client = client
        self._limits = RateLimits()

    async def gateway(self) -> GatewayInfo:
        """Where the gateway is, and how many sessions may still be started (`GET /gateway/bot`)."""
        return read_gateway_info(await self._document(Route("GET", "/gateway/bot")))

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

    async def channel(self, channel: str) -> Any:
        """What a channel is (`GET /channels/{channel}`); asked twice at most, events wait behind it."""
        return await self._document(Route("GET", "/channels/{channel}", channel), QUICK_BACKOFF)

    async def roles(self, guild: str) -> Any:
        """The roles of a server (`GET /guilds/{guild}/roles`); asked twice at most."""
        return await self._document(Route("GET", "/guilds/{channel}/roles", guild), QUICK_BACKOFF)

    async def application(self) -> str | None:
        """The id of the bot's application (`GET /applications/@me`)."""
        return read_id((await self._request(Route("GET", "/applications/@me"))).content)

    async def overwrite_commands(self, application: str, guild: str | None, commands: Sequence[Any]) -> None:
        """Register these commands in place of those that there are (Bulk Overwrite Application Commands).

        Args:
            application: The application's id.
            guild: The server in which they are shown; None for everywhere.
            commands: As the API takes them.
        """
        where = "commands" if guild is None else f"guilds/{guild}/commands"
        await self._request(Route("PUT", f"/applications/{{channel}}/{where}", application), commands)

    async def respond(self, interaction: str, token: str, response: Mapping[str, Any]) -> None:
        """Answer an interaction, which must be within 3 s (Create Interaction Response); tried twice."""
        route = Route("POST", f"/interactions/{{channel}}/{TOKEN}/callback", interaction, token=token)
        await self._request(route, response, backoff=QUICK_BACKOFF)

    async def follow_up(
        self,
        application: str,
        token: str,
        message: Mapping[str, Any],
        uploads: Sequence[Upload] = (),
        *,
        edited: str | None = None,
    ) -> str | None:
        """Post a message that answers an interaction, or edit one (Create Followup Message, Edit Followup Message).

        Args:
            application: The application's id.
            token: The interaction's; it is good for 15 minutes.
            message: What the API takes.
            uploads: Files to go with it.
            edited: The message to be edited; `"@original"` for what shows that the bot is thinking.

        Returns:
            The message's id, if Discord says it.
        """
        path = f"/webhooks/{{channel}}/{TOKEN}"
        if edited is None:
            route = Route("POST", path, application, token=token)
        else:
            route = Route("PATCH", f"{path}/messages/{{message}}", application, edited, token)
        return read_id((await self._request(route, message, uploads)).content)

    async def fetch(self, url: str, max_size: int) -> bytes | None:
        """Fetch an attachment from Discord's CDN, which needs no token and gets none; None when it is too large.

        Args:
            url: The attachment's.
            max_size: Bytes.

        Raises:
            InterfaceError: It is gone, or could not be fetched.
        """
        return await self._client.download(url, max_size)

    async def _document(self, route: Route, backoff: Backoff | None = None) -> Any:
        response = await self._request(route, backoff=backoff)
        try:
            return response.json()
        except ValueError as error:
            raise InterfaceConnectionError(f"{route} was not answered as Discord's API does") from error

    async def _request(
        self,
        route: Route,
        body: Mapping[str, Any] | Sequence[Any] | None = None,
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
        response = await self._client.request(route.method, route.path, token=route.token, **content)
        self._limits.learn(route, response.headers, anyio.current_time())
        if response.is_success:
            return response
        error = error_of(str(route), response.status_code, response.headers, response.content)
        if isinstance(error, DiscordRateLimitError):
            wait = error.retry_after or 0.0
            self._limits.refused(route, wait, anyio.current_time(), is_global=error.is_global)
        raise error

    async def _wait_for_limits(self, route: Route, longest_wait: float) -> None:
        while (wait := self._limits.take(route, anyio.current_time())) > 0:
            if wait > longest_wait:
                raise InterfaceRateLimitError(f"{route}: Discord rate limit: retry in {wait:.0f} s", retry_after=wait)
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


def _content(body: Mapping[str, Any] | Sequence[Any] | None, uploads: Sequence[Upload]) -> dict[str, Any]:
    """A request's body as httpx2's arguments: JSON, or a form with files (Discord's "Reference", Uploading Files)."""
    if body is None:
        return {}
    if not uploads:
        return {"json": body}
    files = [
        (f"files[{index}]", (upload.filename, upload.data, upload.media_type)) for index, upload in enumerate(uploads)
    ]
    return {"data": {"payload_json": json.dumps(body)}, "files": files}
