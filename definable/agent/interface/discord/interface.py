"""A Discord bot in front of the agent."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cached_property
from typing import ClassVar

import anyio

from definable.agent.bus.dedupe import DedupeWindow
from definable.agent.interface.base import Accept, BaseInterface
from definable.agent.interface.config import InterfaceConfig
from definable.agent.interface.errors import InterfaceConnectionError
from definable.agent.interface.message import InterfaceMessage, InterfaceResponse
from definable.agent.interface.streamed_reply import parts_of
from definable.concurrency.logs import logger_named

from .config import DiscordConfig
from .gateway import Gateway, ReconnectPolicy
from .incoming import MessageFilter, NotAMessage, with_images
from .markdown import discord_text, discord_texts
from .outgoing import Outgoing, edited, outgoing
from .protocol import GatewaySession, Payload
from .rest import UNKNOWN_CHANNEL, DiscordRefusal, DiscordRest, open_rest

logger: logging.Logger = logger_named(__name__)

REPLY_WINDOW = 3600.0
"""Seconds for which it is remembered that a message was replied to."""

MAX_SILENCE = 120.0
"""Seconds: the gateway acknowledges a heartbeat about every 41."""


class DiscordInterface(BaseInterface):
    """Answers what is written to a Discord bot.

    Receives over the gateway (v10) and answers over the HTTP API (v10). A connection that breaks is resumed, and
    Discord replays what came meanwhile; so does a service that serves the same interface again within the few minutes
    for which Discord keeps a session. A new process begins a new one: what was written while none ran does not reach
    it. Replies are shown as such, and ping no one.

    `metadata` of a message has `guild_id` (None in direct messages), `display_name`, `is_bot`, and for a reply
    `reply_to`: the `text` and the `user_id` of what was replied to.

    It takes the arguments of a `BaseInterface`. The `config` is a `DiscordConfig`, whose fields may also be given by
    name: `DiscordInterface(bot_token=...)`.

    Example:
        >>> agent.serve(DiscordInterface(DiscordConfig(bot_token=os.environ["DISCORD_TOKEN"])))  # doctest: +SKIP
    """

    config_type: ClassVar[type[InterfaceConfig]] = DiscordConfig
    config: DiscordConfig  # pyright: ignore[reportIncompatibleVariableOverride] - set once
    typing_interval: ClassVar[float] = 8.0
    """Seconds; Discord shows it for ten."""

    reconnect_policy: ReconnectPolicy = ReconnectPolicy()
    """When the gateway is connected to again."""
    _rest: DiscordRest | None = None

    @cached_property
    def _session(self) -> GatewaySession:
        return GatewaySession()

    @cached_property
    def _replied(self) -> DedupeWindow:
        """Which messages were replied to."""
        return DedupeWindow()

    @property
    def has_allow_list(self) -> bool:
        return (self.config.allowed_guild_ids, self.config.allowed_channel_ids) != (None, None)

    @property
    def max_silence(self) -> float | None:
        return MAX_SILENCE

    @property
    def max_part_length(self) -> int:
        return self.config.max_message_length * 9 // 10  # the rest is for backslashes and the like

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[None, None]:
        async with open_rest(self.config) as self._rest:
            try:
                yield
            finally:
                self._rest = None

    async def receive(self, accept: Accept) -> None:
        message_filter = MessageFilter(self.config, self.name)

        async def handle(event: Payload) -> None:
            message = self._read(event, message_filter)
            if message is not None:
                await accept(message)

        gateway = Gateway(self.config, self._session, self._api.gateway, handle, self.alive, self.reconnect_policy)
        await gateway.run()

    async def send(self, message: InterfaceMessage, response: InterfaceResponse) -> None:
        for part in parts_of(response, self.max_part_length):
            *texts, last = discord_texts(part.content or "", self.config.max_message_length) or [""]
            for shown in (*map(InterfaceResponse, texts), replace(part, content=last)):
                for each in outgoing(shown, self._reply_to(message)):
                    await self._create(message, each)

    async def post(self, message: InterfaceMessage, text: str) -> str | None:
        beginning = Outgoing(self._shown(text), reply_to=self._reply_to(message))
        return await self._create(message, beginning)

    async def edit(self, message: InterfaceMessage, posted: str, text: str) -> None:
        await self._api.edit_message(channel_of(message), posted, edited(self._shown(text)))

    async def delete(self, message: InterfaceMessage, posted: str) -> None:
        await self._api.delete_message(channel_of(message), posted)

    async def complete(self, message: InterfaceMessage) -> InterfaceMessage:
        return await with_images(message, self._api)

    async def typing(self, message: InterfaceMessage) -> None:
        await self._api.trigger_typing(channel_of(message))

    async def _create(self, message: InterfaceMessage, answer: Outgoing) -> str | None:
        """Post a message, its text also where Discord refuses the rest of it."""
        try:
            id = await self._create_in(message, answer)
        except DiscordRefusal as refusal:
            plainer = answer.plainer(refusal)
            if not plainer:
                raise
            logger.warning("%s: a message is posted without what Discord refuses: %s", self.name, refusal)
            first, *others = plainer
            id = await self._create(message, first)
            for each in others:
                await self._create(message, each)
        self._replied.claim(message.platform_message_id, REPLY_WINDOW, anyio.current_time())
        return id

    async def _create_in(self, message: InterfaceMessage, answer: Outgoing) -> str | None:
        """Post a message in the thread that it belongs to; in the thread's channel when the thread is gone."""
        channel = channel_of(message)
        try:
            return await self._api.create_message(channel, answer.body, answer.uploads)
        except DiscordRefusal as refusal:
            if refusal.code != UNKNOWN_CHANNEL or channel == message.platform_chat_id:
                raise
            logger.warning("%s: thread %s is gone, its channel is answered: %s", self.name, channel, refusal)
        body = replace(answer, reply_to=None).body
        return await self._api.create_message(message.platform_chat_id, body, answer.uploads)

    def _shown(self, text: str) -> str:
        return discord_text(text, self.config.max_message_length)

    def _reply_to(self, message: InterfaceMessage) -> str | None:
        """The message, for the first that is posted in answer to it."""
        number = message.platform_message_id
        return None if self._replied.remembers(number, anyio.current_time()) else number

    @property
    def _api(self) -> DiscordRest:
        if self._rest is None:
            raise InterfaceConnectionError("the Discord interface is not being served")
        return self._rest

    def _read(self, event: Payload, message_filter: MessageFilter) -> InterfaceMessage | None:
        if event.event != "MESSAGE_CREATE":
            return None
        try:
            return message_filter.read(event.fields, self._session.user_id)
        except NotAMessage as error:
            logger.warning("%s: an event was skipped: %s", self.name, error)
            return None
        except Exception:  # unhandled, it would be replayed after every reconnect
            logger.exception("%s: an event was skipped", self.name)
            return None


def channel_of(message: InterfaceMessage) -> str:
    """Where a message was written; a thread is a channel of its own."""
    return message.thread_id or message.platform_chat_id
