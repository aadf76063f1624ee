"""A Discord bot in front of the agent."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

import anyio

from definable.agent.bus.dedupe import DedupeWindow
from definable.agent.interface.base import Accept, BaseInterface
from definable.agent.interface.config import InterfaceConfig
from definable.agent.interface.errors import InterfaceConnectionError, InterfaceError
from definable.agent.interface.message import InterfaceMessage, InterfaceResponse
from definable.agent.interface.streamed_reply import parts_of
from definable.concurrency.logs import logger_named

from .attachments import completed
from .config import DiscordConfig
from .errors import UNKNOWN_CHANNEL, UNKNOWN_INTERACTION, DiscordRefusal
from .gateway import Gateway, ReconnectPolicy
from .incoming import MessageFilter, NotAMessage
from .interactions import acknowledgement, command_list, interaction_of, read_interaction
from .markdown import discord_text, discord_texts
from .outgoing import Outgoing, button_rows, edited, outgoing
from .places import Places
from .protocol import GatewaySession, Payload
from .rest import DiscordRest, open_rest

logger: logging.Logger = logger_named(__name__)

REPLY_WINDOW = 3600.0
"""Seconds for which it is remembered that a message was replied to."""

MAX_STREAMED = 1000
"""Replies whose last message is known; buttons of an older one are a message by themselves."""

MAX_SILENCE = 120.0
"""Seconds: the gateway acknowledges a heartbeat about every 41."""


class DiscordInterface(BaseInterface):
    """Answers what is written to a Discord bot.

    Receives over the gateway (v10) and answers over the HTTP API (v10). A connection that breaks is resumed, and
    Discord replays what came meanwhile; so does a service that serves the same interface again within the few minutes
    for which Discord keeps a session. A new process begins a new one: what was written while none ran does not reach
    it. Replies are shown as such, and ping no one.

    A thread or a forum post is a conversation of its own. In servers the bot is meant where it, or the role that
    Discord made for it, is mentioned, and by replies to its messages; `@everyone` does not mean it. Slash commands and
    buttons are acknowledged at once.

    `metadata` of a message has `guild_id` (None in direct messages), `display_name`, `is_bot`, and `raw`, Discord's own
    object.

    It takes the arguments of a `BaseInterface`. The `config` is a `DiscordConfig`, whose fields may also be given by
    name: `DiscordInterface(bot_token=...)`.

    Example:
        >>> agent.serve(DiscordInterface(DiscordConfig(bot_token=os.environ["DISCORD_TOKEN"])))  # doctest: +SKIP
    """

    config_type: ClassVar[type[InterfaceConfig]] = DiscordConfig
    config: DiscordConfig  # pyright: ignore[reportIncompatibleVariableOverride] - set once
    has_buttons: ClassVar[bool] = True
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

    @cached_property
    def _streamed(self) -> dict[str, str]:
        """By the message that is answered, the last message that was posted to be edited."""
        return {}

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
        places = Places(self._api.channel, self._api.roles)

        async def handle(event: Payload) -> None:
            message = await self._read(event, message_filter, places)
            if message is None:
                return
            if "interaction" in message.metadata:
                await self._answer_at_once(message)
            await accept(message)

        gateway = Gateway(self.config, self._session, self._api.gateway, handle, self.alive, self.reconnect_policy)
        await gateway.run()

    async def show_commands(self, commands: Mapping[str, str]) -> None:
        application = await self._api.application()
        if application is None:
            raise InterfaceConnectionError("GET /applications/@me was not answered as Discord's API does")
        guilds = self.config.command_guild_ids
        for guild in [None] if guilds is None else sorted(map(str, guilds)):
            await self._api.overwrite_commands(application, guild, command_list(commands))

    async def send(self, message: InterfaceMessage, response: InterfaceResponse) -> None:
        streamed = self._streamed.pop(message.platform_message_id, None)
        if streamed is not None and await self._put_buttons(message, streamed, response):
            return
        for part in parts_of(response, self.max_part_length):
            *texts, last = discord_texts(part.content or "", self.config.max_message_length) or [""]
            for shown in (*map(InterfaceResponse, texts), replace(part, content=last)):
                for each in outgoing(shown, self._reply_to(message)):
                    await self._create(message, each)

    async def post(self, message: InterfaceMessage, text: str) -> str | None:
        beginning = Outgoing(self._shown(text), reply_to=self._reply_to(message))
        posted = await self._create(message, beginning)
        if posted is not None:
            self._streamed[message.platform_message_id] = posted
            while len(self._streamed) > MAX_STREAMED:
                del self._streamed[next(iter(self._streamed))]
        return posted

    async def edit(self, message: InterfaceMessage, posted: str, text: str) -> None:
        await self._edit(message, posted, edited(self._shown(text)))

    async def delete(self, message: InterfaceMessage, posted: str) -> None:
        await self._api.delete_message(channel_of(message), posted)

    async def complete(self, message: InterfaceMessage) -> InterfaceMessage:
        return await completed(message, self._api, with_audio=self.config.transcriber is not None)

    async def typing(self, message: InterfaceMessage) -> None:
        await self._api.trigger_typing(channel_of(message))

    async def _edit(self, message: InterfaceMessage, posted: str, changes: Mapping[str, Any]) -> None:
        if (interaction := interaction_of(message)) is None:
            await self._api.edit_message(channel_of(message), posted, changes)
        else:
            await self._api.follow_up(*interaction, changes, edited=posted)

    async def _put_buttons(self, message: InterfaceMessage, posted: str, response: InterfaceResponse) -> bool:
        """Show buttons that come after a reply that was written under the eyes of the user beneath it, if it can be."""
        rows, others = button_rows(response.buttons)
        if not rows or others or not replace(response, buttons=()).is_empty:
            return False
        try:
            await self._edit(message, posted, {"components": rows})
        except InterfaceError as error:
            logger.info("%s: buttons are posted by themselves: %s", self.name, error)
            return False
        return True

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
        if (interaction := interaction_of(message)) is not None:
            try:
                thinking = None if self._was_answered(message) else "@original"
                return await self._api.follow_up(*interaction, answer.follow_up, answer.uploads, edited=thinking)
            except DiscordRefusal as refusal:
                if refusal.code not in UNKNOWN_INTERACTION:
                    raise
                logger.info("%s: a command is answered in its channel: %s", self.name, refusal)
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

    async def _answer_at_once(self, message: InterfaceMessage) -> None:
        interaction = message.metadata["interaction"]
        try:
            await self._api.respond(interaction["id"], interaction["token"], acknowledgement(message))
        except InterfaceError as error:  # it may be one that a resume brought again; the answer comes all the same
            logger.info("%s: a command or button was not acknowledged: %s", self.name, error)

    def _reply_to(self, message: InterfaceMessage) -> str | None:
        """What the first message that is posted in answer is a reply to; the others are none."""
        if self._was_answered(message) or message.command is not None:
            return None
        return message.platform_message_id if message.button is None else message.reply_to_message_id

    def _was_answered(self, message: InterfaceMessage) -> bool:
        return self._replied.remembers(message.platform_message_id, anyio.current_time())

    @property
    def _api(self) -> DiscordRest:
        if self._rest is None:
            raise InterfaceConnectionError("the Discord interface is not being served")
        return self._rest

    async def _read(self, event: Payload, message_filter: MessageFilter, places: Places) -> InterfaceMessage | None:
        data, me = event.fields, self._session.user_id
        try:
            if event.event == "INTERACTION_CREATE":
                place = await places.of(data, me)
                is_heard = message_filter.is_heard_in(data) and message_filter.is_allowed(place)
                return read_interaction(data, self.name, place) if is_heard else None
            if event.event not in ("MESSAGE_CREATE", "MESSAGE_UPDATE") or not message_filter.may_be_heard(data, me):
                return None
            read = message_filter.read if event.event == "MESSAGE_CREATE" else message_filter.read_edit
            return read(data, me, await places.of(data, me))
        except NotAMessage as error:
            logger.warning("%s: an event was skipped: %s", self.name, error)
            return None
        except Exception:  # unhandled, it would be replayed after every reconnect
            logger.exception("%s: an event was skipped", self.name)
            return None


def channel_of(message: InterfaceMessage) -> str:
    """Where a message was written; a thread is a channel of its own."""
    return message.thread_id or message.platform_chat_id
