"""The gateway: connections one after the other, and one session over all of them.

Reconnecting is part of the protocol and happens several times a day, so it stays within `receive`. But after `PATIENCE`
connections in a row that were not established the supervisor takes over, with its backoff and a state in `/health`.
Source: Discord's "Gateway".
"""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import IntFlag
from functools import partial
from typing import Any, Final, NoReturn, TypeAlias
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import anyio

from definable.agent.interface.errors import (
    InterfaceAuthenticationError,
    InterfaceConnectionError,
    InterfaceRateLimitError,
)
from definable.agent.interface.websocket import WebSocket, open_websocket
from definable.concurrency.backoff import Backoff
from definable.concurrency.logs import logger_named

from .config import DiscordConfig
from .connection import CloseResult, GatewayConnection, HandleEvent
from .protocol import RESUMABLE_CLOSE, GatewayProtocol, GatewaySession, ResumeAction

IDENTIFY_INTERVAL = 5.0
"""Seconds from one identify to the next (session start limit, `max_concurrency` of 1)."""

PATIENCE = 3
"""Connections in a row that were not established until the gateway counts as unreachable."""


@dataclass(frozen=True, slots=True)
class ReconnectPolicy:
    """How fast to go on."""

    invalid_session_wait: tuple[float, float] = (1.0, 5.0)
    """Seconds, from and to, before a new session after an invalid one."""
    identify_interval: float = IDENTIFY_INTERVAL
    stable_after: float = 10.0
    """Seconds: after a connection that lasted so long the next is tried at once."""
    backoff: Backoff = field(default_factory=Backoff)
    """From the second connection in a row that did not last."""

    def delay(self, short_lived: int, action: ResumeAction) -> float:
        """Seconds to wait before the next connection.

        Args:
            short_lived: How many connections in a row did not last; 0 when the last one did.
            action: What is to be done next.
        """
        floor = random.uniform(*self.invalid_session_wait) if action is ResumeAction.IDENTIFY else 0.0
        return max(self.backoff.delay(short_lived - 1), floor)


@dataclass(frozen=True, slots=True)
class GatewayInfo:
    """Where the gateway is, and whether a session may be started there."""

    url: str
    remaining: int
    """Sessions that may still be started."""
    reset_after: float
    """Seconds until there are more."""


def read_gateway_info(body: Any) -> GatewayInfo:
    """Read the endpoint's answer.

    Raises:
        InterfaceConnectionError: It is something else.
    """
    try:
        limit = body["session_start_limit"]
        return GatewayInfo(str(body["url"]), int(limit["remaining"]), float(limit["reset_after"]) / 1000)
    except (ValueError, TypeError, LookupError) as error:
        raise InterfaceConnectionError("GET /gateway/bot: not the answer of Discord's API") from error


logger: logging.Logger = logger_named(__name__)

QUERY: Final = {"v": "10", "encoding": "json"}

LONGEST_START_WAIT = 60.0
"""Seconds to wait here when no session start is left; a longer wait is the supervisor's, who shows it in `/health`."""

OpenSocket: TypeAlias = Callable[[str, float], AbstractAsyncContextManager[WebSocket]]
"""Connects to a URL within so many seconds."""


class Intent(IntFlag):
    """Which events to receive (Discord's "Gateway", Gateway Intents)."""

    GUILD_MESSAGES = 1 << 9
    DIRECT_MESSAGES = 1 << 12
    MESSAGE_CONTENT = 1 << 15


class GatewayRefusedError(InterfaceAuthenticationError):
    """Discord will not have the bot as it is set up, say with an intent that it was not granted. Fatal."""

    status: int | None = 403


class Gateway:
    """Keeps the bot on line.

    Args:
        config: The bot's.
        session: Resumed where it can be; lives on when the gateway is run again.
        discover: Asks `GET /gateway/bot`.
        handle: Deals with events, one after the other.
        alive: Called for every payload while the session is established.
        reconnect_policy: When to connect again.
        open_socket: Connects; as the config says when None.
    """

    def __init__(
        self,
        config: DiscordConfig,
        session: GatewaySession,
        discover: Callable[[], Awaitable[GatewayInfo]],
        handle: HandleEvent,
        alive: Callable[[], None],
        reconnect_policy: ReconnectPolicy | None = None,
        open_socket: OpenSocket | None = None,
    ) -> None:
        self._config = config
        self._session = session
        self._discover = discover
        self._handle = handle
        self._alive = alive
        self._reconnect_policy = ReconnectPolicy() if reconnect_policy is None else reconnect_policy
        self._open_socket = open_socket or partial(open_websocket, close_code=RESUMABLE_CLOSE, proxy=config.proxy)
        self._url: str | None = None
        """Where new sessions begin."""
        self._next_identify = 0.0
        """Seconds of the event loop's clock."""

    async def run(self) -> NoReturn:
        """Stay on line until cancelled.

        Raises:
            InterfaceAuthenticationError: The token is refused, or the bot as it is set up (`GatewayRefusedError`).
            InterfaceConnectionError: The gateway cannot be reached.
            InterfaceRateLimitError: All session starts are used up for now.
        """
        short_lived = fruitless = 0
        while True:
            began = anyio.current_time()
            result = await self._converse()
            lasted = result.established and anyio.current_time() - began >= self._reconnect_policy.stable_after
            short_lived = 0 if lasted else short_lived + 1
            fruitless = 0 if result.established else fruitless + 1
            raise_fatal(result, fruitless)
            delay = self._reconnect_policy.delay(short_lived, result.action)
            logger.info("discord: the gateway connection ended (%s), connecting again in %.1f s", result.why, delay)
            await anyio.sleep(delay)

    async def _converse(self) -> CloseResult:
        url = await self._address()
        session, timeout = self._session, self._config.connect_timeout
        protocol = GatewayProtocol(session, self._config.bot_token, self._introduction())
        is_resumed, sequence = session.resumable, session.sequence
        connect = self._open_socket(url, timeout)
        result = await GatewayConnection(connect, protocol, session, self._handle, self._alive, timeout).run()
        if not result.reached:
            session.resume_url = None  # the session may be had at the usual address still
        elif result.action is ResumeAction.IDENTIFY:
            session.forget()
        elif is_resumed and not result.established and session.sequence == sequence:
            session.resume_failed()
        return result

    async def _address(self) -> str:
        """Where to connect; returns when it may be connected to."""
        fixed = self._config.gateway_url
        if self._session.resumable and (url := fixed or self._session.resume_url or self._url):
            return with_query(url)
        info = await self._discover()
        self._url = fixed or info.url
        if not self._session.resumable:
            await self._wait_to_identify(info)
        return with_query(self._url)

    async def _wait_to_identify(self, info: GatewayInfo) -> None:
        if info.remaining < 1:
            logger.warning("discord: all session starts are used up, the next is possible in %.0f s", info.reset_after)
            if info.reset_after > LONGEST_START_WAIT:
                raise InterfaceRateLimitError(
                    f"Discord session start limit: retry in {info.reset_after:.0f} s", retry_after=info.reset_after
                )
            await anyio.sleep(info.reset_after)
        await anyio.sleep(max(0.0, self._next_identify - anyio.current_time()))
        self._next_identify = anyio.current_time() + self._reconnect_policy.identify_interval

    def _introduction(self) -> dict[str, Any]:
        intents = Intent.GUILD_MESSAGES | Intent.DIRECT_MESSAGES
        if self._config.intents_message_content:
            intents |= Intent.MESSAGE_CONTENT
        properties = {"os": sys.platform, "browser": "definable", "device": "definable"}
        return {"intents": int(intents), "properties": properties}


def raise_fatal(result: CloseResult, fruitless: int) -> None:
    """Raise what `Gateway.run` raises when a connection ends in a way that is not for it to mend.

    Args:
        result: How the connection ended.
        fruitless: How many in a row, this one included, were not established.
    """
    if result.action is ResumeAction.BAD_TOKEN:
        raise InterfaceAuthenticationError(f"Discord refuses the bot's token ({result.why})")
    if result.action is ResumeAction.REFUSED:
        raise GatewayRefusedError(f"Discord refuses the bot ({result.why})")
    if fruitless >= PATIENCE:
        raise InterfaceConnectionError(f"the gateway cannot be reached: {result.why}")


def with_query(url: str) -> str:
    """The gateway's URL with the version and the encoding that we speak."""
    scheme, host, path, query, _ = urlsplit(url)
    return urlunsplit((scheme, host, path or "/", urlencode({**dict(parse_qsl(query)), **QUERY}), ""))
