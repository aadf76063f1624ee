"""A chat platform in memory: tests write as its users, and see what the bot shows them."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import anyio

from definable.agent.interface.base import Accept, BaseInterface
from definable.agent.interface.config import InterfaceConfig
from definable.agent.interface.message import Button, InterfaceMessage, InterfaceResponse, Media, QuotedMessage
from definable.concurrency.clock import current_clock
from definable.model.message import Image


@dataclass(frozen=True)
class FakeChatConfig(InterfaceConfig):
    """Settings of the fake platform: nothing is collected, and nobody writes too much, unless set."""

    platform: str = "fake"
    collect: float = 0.0
    rate_limit_messages_per_minute: int = 1_000_000


@dataclass(slots=True)
class ShownMessage:
    """What the bot shows in a chat."""

    id: str
    chat: str
    thread: str | None
    text: str
    buttons: tuple[tuple[Button, ...], ...] = ()
    images: tuple[Image, ...] = ()
    files: tuple[Media, ...] = ()
    """Audio and videos too."""
    answers: str | None = None
    """The id of the message that it answers."""
    history: list[str] = field(default_factory=list[str])
    """The texts that it showed before, while it was written."""


class FakeChat(BaseInterface):
    """A chat platform for tests: with direct chats, groups, threads, replies, buttons, edits and commands.

    Args:
        bot_name: What users mention the bot by: `"@bot"` in a group.
        arguments: Those of every interface (`hooks=`, `auth=`, ...), and settings by name.

    Example:
        chat = FakeChat()
        async with agent.running(chat, enable_server=False):
            assert (await chat.ask("hi")).text == "hi"
    """

    config_type: ClassVar[type[InterfaceConfig]] = FakeChatConfig
    has_buttons: ClassVar[bool] = True
    edit_interval: ClassVar[float] = 0.2

    def __init__(self, config: InterfaceConfig | None = None, *, bot_name: str = "bot", **arguments: Any) -> None:
        super().__init__(config, **arguments)
        self.bot_name = bot_name
        self.messages: list[ShownMessage] = []
        """What the bot shows, oldest first."""
        self.menu: Mapping[str, str] = {}
        """The commands that the bot has announced, with their descriptions."""
        self.acknowledged: list[str] = []
        """The ids of presses and commands whose spinner was stopped."""
        self.handled_ids: list[str] = []
        """The ids of messages that need not be sent again."""
        self.typed: int = 0
        """How often the bot showed that it is typing."""
        self._faults: deque[Exception] = deque()
        self._accept: Accept | None = None
        self._changed = anyio.Event()
        self._number = 0

    # --- as a user

    async def write(
        self,
        text: str | None = None,
        *,
        user: str = "ann",
        group: str | None = None,
        thread: str | None = None,
        reply_to: ShownMessage | InterfaceMessage | None = None,
        message_id: str | None = None,
        **fields: Any,
    ) -> InterfaceMessage:
        """Write to the bot, or in a group that it is in; returns once the bot has taken the message in.

        Args:
            text: What is written; in a group the bot is meant where its name is mentioned.
            user: Who writes.
            group: The group; a direct chat with the bot when None.
            thread: The thread within the group.
            reply_to: What it replies to; a reply to the bot means the bot.
            message_id: The platform's id; a new one when None.
            fields: More of the `InterfaceMessage`.
        """
        mention = re.compile(rf" ?(?<!\w)@{re.escape(self.bot_name)}\b ?")
        is_named = text is not None and mention.search(text) is not None
        if text is not None and is_named:
            text = mention.sub(" ", text).strip()
        written = (text or "").split(maxsplit=1)[:1]  # "/start@other" is another bot's command
        is_command = written and written[0].startswith("/") and "@" not in written[0]
        is_command = is_command or {"button", "command"} & fields.keys()
        known: dict[str, Any] = {
            "username": user,
            "is_direct": group is None,
            "is_addressed": group is None or is_named or bool(is_command) or isinstance(reply_to, ShownMessage),
            "thread_id": thread,
            "created_at": current_clock().now(),
        }
        if reply_to is not None:
            known |= self._reply(reply_to)
        where = user if group is None else group
        number = self._next_id() if message_id is None else message_id
        message = InterfaceMessage(self.name, user, where, number, text, **known | fields)
        await self.deliver(message)
        return message

    async def ask(self, text: str | None = None, **arguments: Any) -> ShownMessage:
        """Write, and wait for the next message of the bot in that chat; it may grow still.

        Args:
            text: As for `write`.
            arguments: As for `write`.
        """
        where = arguments.get("group") or arguments.get("user", "ann")
        before = len(self.shown(where, arguments.get("thread")))
        await self.write(text, **arguments)
        await self.until(lambda: len(self.shown(where, arguments.get("thread"))) > before)
        return self.shown(where, arguments.get("thread"))[before]

    async def press(self, text: str, *, user: str = "ann", group: str | None = None, thread: str | None = None) -> None:
        """Press the newest button of this text in a chat.

        Raises:
            LookupError: The chat shows no such button.
        """
        for shown in reversed(self.shown(user if group is None else group, thread)):
            for button in (button for row in shown.buttons for button in row if button.url is None):
                if button.text == text:
                    pressed: dict[str, Any] = {"button": button.pressed, "metadata": {"press": self._next_id()}}
                    await self.write(text, user=user, group=group, thread=thread, message_id=shown.id, **pressed)
                    return
        raise LookupError(f"no button says {text!r}")

    async def command(self, name: str, arguments: str | None = None, **more: Any) -> InterfaceMessage:
        """Use a command of the platform's own menu."""
        return await self.write(arguments, command=name, **more)

    async def correct(self, message: InterfaceMessage, text: str) -> None:
        """Edit a message that was written before."""
        edit = {"edit": self._next_id()}
        await self.deliver(replace(message, text=text, is_edit=True, metadata={**message.metadata, **edit}))

    async def deliver(self, message: InterfaceMessage) -> bool:
        """Hand a message to the bot as it is, also a second time; False where it was in before."""
        await self.until(lambda: self._accept is not None)
        assert self._accept is not None
        return await self._accept(message)

    # --- what users see

    def shown(self, chat: str = "ann", thread: str | None = None) -> Sequence[ShownMessage]:
        """What the bot shows in a user's direct chat, or in a group."""
        return [each for each in self.messages if (each.chat, each.thread) == (chat, thread)]

    def texts(self, chat: str = "ann", thread: str | None = None) -> list[str]:
        """The texts of what it shows there."""
        return [each.text for each in self.shown(chat, thread)]

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until something is so; it is asked whenever something happens on the platform."""
        while not condition():
            await self._changed.wait()

    def fail(self, *errors: Exception) -> None:
        """Have the platform refuse the next requests of the bot, one for each error."""
        self._faults.extend(errors)

    # --- the interface

    async def receive(self, accept: Accept) -> None:
        self._accept = accept
        self._happened()
        try:
            await anyio.sleep_forever()
        finally:
            self._accept = None

    async def send(self, message: InterfaceMessage, response: InterfaceResponse) -> None:
        self._request()
        files = (*response.audio, *response.videos, *response.files)
        self._show(message, response.content or "", response.buttons, response.images, files)

    async def post(self, message: InterfaceMessage, text: str) -> str | None:
        self._request()
        return self._show(message, text).id

    async def edit(self, message: InterfaceMessage, posted: str, text: str) -> None:
        self._request()
        for shown in self.messages:
            if shown.id == posted:
                shown.history.append(shown.text)
                shown.text = text
        self._happened()

    async def delete(self, message: InterfaceMessage, posted: str) -> None:
        self._request()
        self.messages = [each for each in self.messages if each.id != posted]
        self._happened()

    async def typing(self, message: InterfaceMessage) -> None:
        self.typed += 1
        self._request()

    async def acknowledge(self, message: InterfaceMessage) -> None:
        self.acknowledged.append(message.platform_message_id)
        self._happened()

    async def show_commands(self, commands: Mapping[str, str]) -> None:
        self.menu = dict(commands)
        self._happened()

    def handled(self, message: InterfaceMessage) -> None:
        self.handled_ids.append(message.platform_message_id)
        self._happened()

    # --- inside

    def _reply(self, to: ShownMessage | InterfaceMessage) -> dict[str, Any]:
        if isinstance(to, ShownMessage):
            quoted = QuotedMessage("reply", self.bot_name, to.text, to.images, to.files, to.id)
        else:
            quoted = QuotedMessage("reply", to.username, to.text, to.images, to.files, to.platform_message_id)
        return {"reply_to_message_id": quoted.message_id, "context": (quoted,)}

    def _show(
        self,
        message: InterfaceMessage,
        text: str,
        buttons: tuple[tuple[Button, ...], ...] = (),
        images: tuple[Image, ...] = (),
        files: tuple[Media, ...] = (),
    ) -> ShownMessage:
        chat, thread, answers = message.platform_chat_id, message.thread_id, message.platform_message_id
        shown = ShownMessage(self._next_id(), chat, thread, text, buttons, images, files, answers)
        self.messages.append(shown)
        self._happened()
        return shown

    def _request(self) -> None:
        if self._faults:
            raise self._faults.popleft()

    def _next_id(self) -> str:
        self._number += 1
        return str(self._number)

    def _happened(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
