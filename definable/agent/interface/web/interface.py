"""`WebInterface`: a chat page of the service's own, and a widget for other sites."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import anyio

from definable.agent.interface.base import Accept, BaseInterface, WebhookHandler
from definable.agent.interface.config import InterfaceConfig
from definable.agent.interface.errors import InterfaceConnectionError
from definable.agent.interface.hooks import HookChain
from definable.agent.interface.message import InterfaceMessage, InterfaceResponse, Media
from definable.agent.trigger.webhook import Webhook
from definable.concurrency.isolation import error_text
from definable.concurrency.logs import logger_named
from definable.errors import DefinableError
from definable.model.message import Image, Message

from .chat import Chat, Entry
from .chats import Chats, HeldFile, HeldFiles
from .config import WebConfig
from .endpoints import MAX_ANSWER_SECONDS, Endpoints, Incoming
from .visitor import VisitorNames

logger: logging.Logger = logger_named(__name__)


class WebInterface(BaseInterface):
    """A chat page at `path`, and a widget for pages of other sites at `path/widget.js`.

    Where the agent has an auth provider for HTTP, or the interface one of its own, the page asks for its credentials,
    and each user has one conversation, on all devices. Else, or with `auth=False`, each browser is a visitor with a
    signed name.

    Replies come as they are written. What a page missed, it gets when it comes back; after a restart, the conversation
    comes from the session store, without what hooks put in place of replies, buttons and files.

    It takes the arguments of a `BaseInterface`. The `config` is a `WebConfig`, whose fields may also be given by name:
    `WebInterface(path="/chat", title="Support")`.
    """

    config_type: ClassVar[type[InterfaceConfig]] = WebConfig
    config: WebConfig  # pyright: ignore[reportIncompatibleVariableOverride] - set once
    edit_interval: ClassVar[float] = 0.1
    has_buttons: ClassVar[bool] = True
    has_http_users: ClassVar[bool] = True

    _accept: Accept | None = None
    """Takes messages in, while the interface receives."""
    _commands: Mapping[str, str] = {}
    _chats: Chats
    """Of this serving, as what follows."""
    _files: HeldFiles

    @cached_property
    def _names(self) -> VisitorNames:
        if not self.config.secrets:
            logger.warning(
                "%s: no secret is set to sign the names of visitors: nobody is known after a restart, nor on another "
                "replica. Set WebInterface(secret=...), at least 16 random characters",
                self.name,
            )
        return VisitorNames(self.config.secrets or [secrets.token_urlsafe(32)])

    async def receive(self, accept: Accept) -> None:
        self._accept = accept
        try:
            await anyio.sleep_forever()
        finally:
            self._accept = None
            for chat in self._chats:  # pages leave once nothing is to come
                chat.wake()

    def webhooks(self) -> Iterable[tuple[Webhook, WebhookHandler]]:
        self._chats, self._files = Chats(self.config.max_chats), HeldFiles(self.config.max_file_bytes)
        path, auth = self.config.path, self.auth
        upload = self.config.max_upload_bytes * 4 // 3 + self.config.max_input_length * 12 + 10_000
        endpoints = Endpoints(
            self.config,
            lambda: self._names,
            self._chats,
            self._files,
            lambda: self._accept,
            self._load,
            self._find_answers,
        )
        yield Webhook(path, method="GET", auth=False, embeddable=True), endpoints.page
        yield Webhook(f"{path}/{{file}}", method="GET", auth=False, embeddable=True), endpoints.asset
        yield Webhook(f"{path}/session", auth=auth), endpoints.session
        yield Webhook(f"{path}/messages", auth=auth, body=Incoming, max_body=upload), endpoints.message
        yield Webhook(f"{path}/events", method="GET", auth=auth), endpoints.events
        yield Webhook(f"{path}/files/{{id}}", method="GET", auth=auth), endpoints.file

    async def send(self, message: InterfaceMessage, response: InterfaceResponse) -> None:
        chat = self._chat_of(message)
        files = [self._file(chat, media, kind) for kind, media in media_of(response)]
        extra: dict[str, Any] = {"files": files} if files else {}
        if response.buttons:
            extra["buttons"] = [
                [
                    {"text": each.text, "url": each.url} if each.url else {"text": each.text, "value": each.pressed}
                    for each in row
                ]
                for row in response.buttons
            ]
        chat.answered(new_id(), message.platform_message_id, response.content or "", extra)

    async def post(self, message: InterfaceMessage, text: str) -> str | None:
        chat, posted = self._chat_of(message), new_id()
        chat.works_on(message.platform_message_id, anyio.current_time())
        chat.answered(posted, message.platform_message_id, text, {}, is_draft=True)
        return posted

    async def edit(self, message: InterfaceMessage, posted: str, text: str) -> None:
        chat = self._chat_of(message)
        if not chat.grown(posted, text):
            chat.answered(posted, message.platform_message_id, text, {})

    async def delete(self, message: InterfaceMessage, posted: str) -> None:
        self._chat_of(message).withdrawn(posted)

    async def typing(self, message: InterfaceMessage) -> None:
        self._chat_of(message).works_on(message.platform_message_id, anyio.current_time())

    def answer_ended(self, message: InterfaceMessage) -> None:
        chat = self._chats.of(message.platform_user_id)
        if chat is not None:
            for id in (*message.metadata.get("collected", ()), message.platform_message_id):
                chat.ended(id)

    async def show_commands(self, commands: Mapping[str, str]) -> None:
        self._commands = dict(commands)
        for chat in self._chats:
            chat.show_commands(dict(commands))

    # --- conversations of before

    async def _load(self, chat: Chat) -> None:
        """Show what the session store has of a chat; the page works without it too."""
        if chat.is_loaded:
            return
        chat.show_commands(dict(self._commands))
        try:
            async with chat.loading:
                if not chat.is_loaded:
                    chat.load(self._entries(await self._history(chat)))
        except Exception as error:
            surprise = None if isinstance(error, DefinableError) else error
            logger.error("%s: a conversation could not be shown: %s", self.name, error_text(error), exc_info=surprise)

    async def _history(self, chat: Chat) -> Sequence[Message]:
        if self.history is None:
            return ()
        return await self.history(self.config.platform, chat.user_id, chat.user_id)

    def _entries(self, messages: Sequence[Message]) -> list[Entry]:
        """A stored conversation as the page shows it; without replies that a hook may have replaced."""
        roles = {"user": "user"} if HookChain(self.hooks).hold_back_replies else {"user": "user", "assistant": "agent"}
        return [
            Entry(f"h{number}", roles[said.role], said.content, extra={"images": count} if count else {})
            for number, said in enumerate(messages)
            if said.role in roles and ((count := len(said.images)) or said.content)
        ]

    async def _find_answers(self, chat: Chat, late: Sequence[tuple[str, str, float]]) -> None:
        """Show answers that another replica has made, which took a message from the bus that they share."""
        messages = await self._history(chat)
        last_asked = next((each.content for each in reversed(messages) if each.role == "user"), None)
        is_answered = bool(messages) and messages[-1].role == "assistant"
        for id, text, seconds in late:
            if is_answered and last_asked is not None and text in last_asked:
                chat.ended(id)
                chat.load(self._entries(messages))
            elif seconds > MAX_ANSWER_SECONDS:
                chat.ended(id)

    # --- within

    def _chat_of(self, message: InterfaceMessage) -> Chat:
        chat = self._chats.of(message.platform_user_id)
        if chat is None:  # the conversation itself is in the session store
            raise InterfaceConnectionError(f"max_chats={self.config.max_chats} chats are open: the user's is not")
        return chat

    def _file(self, chat: Chat, media: Image | Media, kind: str) -> dict[str, Any]:
        name = getattr(media, "filename", None) or f"{kind}.{media.media_type.rpartition('/')[2]}"
        told: dict[str, Any] = {"kind": kind, "name": name, "type": media.media_type}
        if media.data is None:
            return told | {"url": media.url}
        id = self._files.add(HeldFile(chat.user_id, media.media_type, name, media.data))
        return told | {"id": id, "size": len(media.data)}


def media_of(response: InterfaceResponse) -> Iterable[tuple[str, Image | Media]]:
    """What a response shows beside its text, each with what it is."""
    for kind, several in (
        ("image", response.images),
        ("audio", response.audio),
        ("video", response.videos),
        ("file", response.files),
    ):
        yield from ((kind, media) for media in several)


def new_id() -> str:
    """The id of a message of the agent's."""
    return secrets.token_urlsafe(9)
