"""A Slack app in front of the agent."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, ClassVar

import anyio

from definable.agent.auth.signature import SlackSignature
from definable.agent.interface.base import Accept, BaseInterface, WebhookHandler
from definable.agent.interface.config import InterfaceConfig
from definable.agent.interface.errors import InterfaceConnectionError, InterfaceRateLimitError
from definable.agent.interface.message import InterfaceMessage, InterfaceResponse
from definable.agent.trigger.base import TriggerEvent
from definable.agent.trigger.request import Reply
from definable.agent.trigger.webhook import Webhook
from definable.concurrency.logs import logger_named

from .client import ONCE, SlackAPI, SlackRefusal, open_api
from .config import SlackConfig
from .content import Me, people_in, readable
from .events import EventReader, kind_of
from .files import object_of, text_of, with_files
from .people import People, Person
from .sender import Sender
from .sockets import SlackRefusedError, SocketPolicy, Sockets
from .threads import Threads

logger: logging.Logger = logger_named(__name__)

CHECK_INTERVAL = 60.0
"""Seconds from one question whether the token is still good to the next."""

MAX_SILENCE = 150.0
"""Seconds: two pings of a socket, or two questions, and the time that they may take."""

MAX_STREAMED = 1_000
"""Replies of which it is remembered which message shows them while they are written."""

TOKEN_ENDED = frozenset({"tokens_revoked", "app_uninstalled"})
"""Events."""


class SlackInterface(BaseInterface):
    """Answers what is written to a Slack app.

    Events come over Socket Mode, or by the Events API to this service's own HTTP server. Each is acknowledged once the
    event bus has it, and Slack sends again what was not acknowledged: none is lost, and none is answered twice. An
    answer in a channel begins a thread; each thread is a conversation of its own. In a thread that began with a message
    of the app, or with one that mentions it, the app is meant without another mention, unless somebody else is
    mentioned. Slash commands are answered where only their user sees it, also in channels without the app.

    `metadata` of a message has `channel_type`, `team_id`, `event_id`, `is_bot`, and `raw`, Slack's own object.

    It takes the arguments of a `BaseInterface`. The `config` is a `SlackConfig`, whose fields may also be given by
    name: `SlackInterface(bot_token=..., app_token=...)`.

    Example:
        >>> agent.serve(SlackInterface(bot_token=bot_token, app_token=app_token))  # doctest: +SKIP
    """

    config_type: ClassVar[type[InterfaceConfig]] = SlackConfig
    config: SlackConfig  # pyright: ignore[reportIncompatibleVariableOverride] - set once
    has_buttons: ClassVar[bool] = True
    typing_interval: ClassVar[float] = 90.0
    """Seconds; Slack shows the status for two minutes."""
    edit_interval: ClassVar[float] = 1.5
    """Seconds: `chat.update` may be called 50 times a minute, for all chats together."""

    socket_policy: SocketPolicy = SocketPolicy()
    """When the next socket is opened."""
    _api: SlackAPI | None = None
    _accept: Accept | None = None
    """Takes messages in, while the interface receives."""
    _reader: EventReader | None = None
    _threads: Threads | None = None
    _me: Me
    _people: People
    _streamed: OrderedDict[tuple[str, str], tuple[str, str]]
    """By what is answered: the `ts` and the text of the last message that shows the reply while it is written."""
    _has_status: bool = True
    """Whether Slack takes a status of this app."""
    _check: anyio.Event
    """Set when the token may have been revoked."""

    @property
    def has_allow_list(self) -> bool:
        return (self.config.allowed_user_ids, self.config.allowed_channel_ids) != (None, None)

    @property
    def max_silence(self) -> float | None:
        return MAX_SILENCE + self.config.request_timeout

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[None, None]:
        self._people, self._streamed = People(), OrderedDict()  # with times of this event loop's clock
        async with open_api(self.config) as self._api:
            try:
                yield
            finally:
                self._api = None

    async def receive(self, accept: Accept) -> None:
        self._me, self._check = await self._introduce(), anyio.Event()
        self._reader, self._accept = EventReader(self.config, self.name, self._me), accept
        self._threads = Threads(self._connected_api, self._me, self._people)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._keep_checking)
                if self.config.mode == "socket":
                    await Sockets(self.config, self._socket_url, self._take, self.alive, self.socket_policy).run()
                await anyio.sleep_forever()
        finally:
            self._accept = None

    async def send(self, message: InterfaceMessage, response: InterfaceResponse) -> None:
        await self._sender.send(message, response, self._streamed.get(_key(message)))

    async def post(self, message: InterfaceMessage, text: str) -> str | None:
        posted = await self._sender.post(message, text)
        self._note_streamed(message, posted, text)
        return posted

    async def edit(self, message: InterfaceMessage, posted: str, text: str) -> None:
        await self._sender.edit(message, posted, text)
        self._note_streamed(message, posted, text)

    async def delete(self, message: InterfaceMessage, posted: str) -> None:
        await self._sender.delete(message, posted)

    async def typing(self, message: InterfaceMessage) -> None:
        """Show the status in the message's thread, which Slack takes away with the answer; nothing outside of threads.

        Source: https://docs.slack.dev/reference/methods/assistant.threads.setStatus
        """
        is_shown = _key(message) in self._streamed
        if message.thread_id is None or message.command is not None or is_shown or not self._has_status:
            return
        place: dict[str, Any] = {"channel_id": message.platform_chat_id, "thread_ts": message.thread_id}
        try:
            await self._connected_api.call("assistant.threads.setStatus", status=self.config.status, **place)
        except SlackRefusal as refusal:
            self._has_status = False
            logger.info("slack: no status is shown from now on: %s", refusal)

    async def complete(self, message: InterfaceMessage) -> InterfaceMessage:
        message = await with_files(message, self._connected_api)
        context = () if self._threads is None else await self._threads.before(message)
        return replace(message, context=(*context, *message.context)) if context else message

    def webhooks(self) -> Iterable[tuple[Webhook, WebhookHandler]]:
        if self.config.mode == "events" and self.config.signing_secret is not None:
            auth = SlackSignature(self.config.signing_secret)
            yield Webhook(self.config.events_path, auth=auth, challenge="slack"), self._on_request

    # --- receiving

    async def _introduce(self) -> Me:
        """Who the app is; the token is refused here, if it is no good."""
        answer = await self._call_or_refuse("auth.test")
        me, name = Me(str(answer.get("user_id")), text_of(answer.get("bot_id"))), text_of(answer.get("user"))
        self._people.note(me.user_id, Person(name))
        logger.info("slack: this is %s in %s, mode %s", name, answer.get("team"), self.config.mode)
        if self.config.mode == "events":
            self.alive()
        return me

    async def _socket_url(self) -> str:
        url = (await self._call_or_refuse("apps.connections.open")).get("url")
        if not isinstance(url, str):
            raise InterfaceConnectionError("apps.connections.open: Slack answered with something else than a URL")
        return url

    async def _call_or_refuse(self, method: str) -> dict[str, Any]:
        """Call a method without which nothing works, once: the supervisor tries again.

        Raises:
            SlackRefusedError: Slack does not let the app, say since a scope is missing.
        """
        try:
            return await self._connected_api.call(method, backoff=ONCE)
        except SlackRefusal as refusal:
            raise SlackRefusedError(str(refusal)) from None

    async def _keep_checking(self) -> None:
        """Ask once a minute whether the token is good: sends of answers alone would find out."""
        while True:
            with anyio.move_on_after(CHECK_INTERVAL):
                await self._check.wait()
            self._check = anyio.Event()
            try:
                await self._call_or_refuse("auth.test")
            except (InterfaceConnectionError, InterfaceRateLimitError) as error:
                logger.info("slack: the token could not be checked: %s", error)
            else:
                if self.config.mode == "events":
                    self.alive()

    async def _on_request(self, event: TriggerEvent) -> Reply:
        if self._accept is None:
            return Reply({"status": "not receiving"}, status=503)  # Slack sends events again
        self.alive()
        payload = dict(object_of(event.body))
        await self._take(kind_of(payload), payload)
        return Reply()  # what a slash command is answered with would be shown

    async def _take(self, kind: str, payload: dict[str, Any]) -> None:
        """Hand a payload's message on, unless it brings none for us."""
        if object_of(payload.get("event")).get("type") in TOKEN_ENDED:
            self._check.set()
        if self._reader is None or self._threads is None or self._accept is None:
            raise InterfaceConnectionError("the interface is not receiving")
        try:
            message = self._reader.read(kind, payload)
        except Exception:  # refused, it would come again and again
            logger.exception("slack: %s was skipped", kind)
            return
        if message is None:
            return
        if not message.is_addressed and await self._threads.is_own(message):
            message = replace(message, is_addressed=True)
        people = await self._people.find(people_in(message), self._connected_api)
        await self._accept(readable(message, people, self._me))

    def _note_streamed(self, message: InterfaceMessage, posted: str | None, text: str) -> None:
        last, _ = self._streamed.get(_key(message), ("", ""))
        if posted is not None and posted >= last:  # later ones have later times
            self._streamed[_key(message)] = posted, text
            if len(self._streamed) > MAX_STREAMED:
                self._streamed.popitem(last=False)

    @property
    def _sender(self) -> Sender:
        return Sender(self._connected_api, self.config)

    @property
    def _connected_api(self) -> SlackAPI:
        if self._api is None:
            raise InterfaceConnectionError("the interface is not being served")
        return self._api


def _key(message: InterfaceMessage) -> tuple[str, str]:
    return message.platform_chat_id, message.platform_message_id
