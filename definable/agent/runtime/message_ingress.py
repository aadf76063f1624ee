"""What becomes of a chat message before the bus: dropped, carried out as a command, or accepted to be answered.

Commands act beside the chat's queue, so that `/stop` helps where an answer hangs.
"""

from __future__ import annotations

import inspect
import logging
import math
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

import anyio
from anyio.abc import TaskGroup

from definable.agent.interface.base import BaseInterface
from definable.agent.interface.config import ChatCommand
from definable.agent.interface.errors import InterfaceConnectionError, InterfaceRateLimitError, retried
from definable.agent.interface.message import InterfaceMessage, MessageEnd, is_meant
from definable.agent.interface.pipeline import Pipeline
from definable.agent.work import WorkTracker
from definable.concurrency.backoff import Backoff
from definable.concurrency.call import contained
from definable.concurrency.isolation import contain_errors, error_text
from definable.concurrency.logs import logger_named

from .chat_dispatcher import ChatKey, Stopped, chat_of
from .message_queue import MessageQueue

logger: logging.Logger = logger_named(__name__)

_COMMAND = re.compile(r"/([A-Za-z0-9_-]{1,32})(?:@\w+)?(?:\s+(.*))?\s*", re.DOTALL)

MENU_BACKOFF = Backoff(max_tries=6)
"""Between the tries to have the platform show the commands."""

MAX_WRITERS = 10_000
"""Users of groups of whom it is remembered when they last addressed the agent."""

Act: TypeAlias = Callable[[InterfaceMessage, anyio.CancelScope], Awaitable[MessageEnd]]


class MessageIngress:
    """Takes in the messages of one interface.

    Args:
        name: The interface's, in logs.
        interface: Where they come from.
        pipeline: Admits who gives commands, and answers them.
        queue: Where messages wait.
        tracker: Counts commands, under the interface's name.
        is_safe: Told of a message that need not come again.
        has_ended: Told of a message for which nothing more is done.
    """

    def __init__(
        self,
        name: str,
        interface: BaseInterface,
        pipeline: Pipeline,
        queue: MessageQueue,
        tracker: WorkTracker,
        *,
        is_safe: Callable[[InterfaceMessage], None],
        has_ended: Callable[[InterfaceMessage], None],
    ) -> None:
        self._name = name
        self._interface = interface
        self._pipeline = pipeline
        self._queue = queue
        self._tracker = tracker
        self._is_safe = is_safe
        self._has_ended = has_ended
        self.has_accepted: bool = False
        """Whether a message has come in since the start."""
        self._tasks: TaskGroup | None = None
        self._isolation = contain_errors(f"a command of {name}")
        self._built_in: Mapping[str, Act] = {
            "stop": self._stop,
            "new": self._new,
            "help": self._help,
            "start": self._help,
        }
        self._renewals: dict[tuple[ChatKey, str], anyio.Event] = {}
        """Ends of the `/new` that are under way, the last of each user in each chat."""
        self._addressed: OrderedDict[tuple[ChatKey, str], float] = OrderedDict()
        """When users of groups addressed the agent last, in seconds of the event loop's clock."""

    def open(self, tasks: TaskGroup) -> None:
        """Have commands carried out from now on, in tasks of this group."""
        self._tasks = tasks

    async def accept(self, message: InterfaceMessage) -> bool:
        """Take a message in; False when it came in before. See `Accept`.

        Raises:
            ConfigurationError: The bus keeps JSON, and the message's metadata is none.
            EventBusError: The bus did not take it.
        """
        self.has_accepted = True
        if not self._may_be_meant(message):
            self._is_safe(message)
            self._has_ended(message)
            return True
        command, act = self._command_of(message)
        if act is not None:
            end = anyio.Event()
            if command.command == "new":
                self._renewals[_writer(message)] = end
            if not await self._queue.is_new(message):
                self._end(command, end)
                return False
            self._begin(partial(self._perform, command, act, end))
        elif not await self._queue.accept(message):
            return False
        if message.button is not None or message.command is not None:
            self._begin(partial(self._acknowledge, message))
        return True

    async def renewed(self, message: InterfaceMessage) -> None:
        """Wait until a `/new` that was given before the message is carried out."""
        if (end := self._renewals.get(_writer(message))) is not None:
            await end.wait()

    async def show_menu(self) -> None:
        """Have the platform show the commands that there are; a failure is logged."""
        try:
            with self._isolation:
                await retried(
                    partial(self._interface.show_commands, self.descriptions),
                    MENU_BACKOFF,
                    InterfaceConnectionError,
                    InterfaceRateLimitError,
                )
        except Exception as error:
            logger.warning("%s: the platform does not show the commands: %s", self._name, error_text(error))

    @property
    def descriptions(self) -> Mapping[str, str]:
        """What the commands do, by name."""
        config = self._interface.config
        texts = config.texts
        own = {name: _description(name, function) for name, function in config.commands.items()}
        return own | {
            name: text
            for name, text in (
                ("new", texts.describe_new),
                ("stop", texts.describe_stop),
                ("help", texts.describe_help),
            )
            if name not in own
        }

    def _may_be_meant(self, message: InterfaceMessage) -> bool:
        """Whether the agent is meant, or may be once the message has become one with others."""
        if message.is_direct:
            return True
        config, now = self._interface.config, anyio.current_time()
        writer = _writer(message)
        if is_meant(message, config.groups):
            self._addressed[writer] = now
            self._addressed.move_to_end(writer)
            if len(self._addressed) > MAX_WRITERS:
                self._addressed.popitem(last=False)
            return True
        if config.groups == "off" or config.collect <= 0:
            return False
        follows = now - self._addressed.get(writer, -math.inf) <= config.collect
        if follows:
            self._addressed[writer] = now
        return follows or message.group_id is not None

    def _command_of(self, message: InterfaceMessage) -> tuple[InterfaceMessage, Act | None]:
        """The message with its command's name and arguments, and what carries it out; None where nothing here does."""
        name = message.command
        if name is None:
            written = None if message.button is not None or message.is_edit else _COMMAND.fullmatch(message.text or "")
            if written is None or not is_meant(message, self._interface.config.groups):
                return message, None
            name = written[1].lower()
            message = replace(message, command=name, text=written[2])
        function = self._interface.config.commands.get(name)
        act = self._built_in.get(name) if function is None else partial(self._call, function)
        return message, act

    # --- commands

    def _begin(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        assert self._tasks is not None  # nothing is received before
        self._tasks.start_soon(work)

    def _end(self, message: InterfaceMessage, end: anyio.Event) -> None:
        end.set()
        if self._renewals.get(_writer(message)) is end:
            del self._renewals[_writer(message)]

    async def _perform(self, message: InterfaceMessage, act: Act, end: anyio.Event) -> None:
        with self._tracker.work(self._name) as work:
            ended = MessageEnd.FAILED
            try:
                with self._isolation:
                    ended = await contained(self._name, self._pipeline.perform, message, act)
            except Exception:
                logger.exception("%s: command %s was not carried out", self._name, message.platform_message_id)
            self._end(message, end)
            work.failed, work.refused = ended is MessageEnd.FAILED, ended is MessageEnd.REFUSED
            self._is_safe(message)
            self._has_ended(message)

    async def _stop(self, message: InterfaceMessage, scope: anyio.CancelScope) -> MessageEnd:
        """What is the user's own is stopped before hooks and auth are asked: they may be what hangs."""
        chat = chat_of(message)
        stopped = self._queue.stop(chat, message.platform_user_id)
        if stopped == Stopped():
            end, _ = await self._pipeline.admission.ask(message)
            if end is not None:
                return end
            stopped = self._queue.stop(chat)
        texts = self._interface.config.texts
        if stopped == Stopped():
            await self._pipeline.say(message, texts.nothing_to_stop)
        elif stopped.waiting:
            await self._pipeline.say(message, texts.stopped_all, count=stopped.waiting)
        else:
            await self._pipeline.say(message, texts.stopped)
        return MessageEnd.HANDLED

    async def _new(self, message: InterfaceMessage, scope: anyio.CancelScope) -> MessageEnd:
        end, caller = await self._pipeline.admission.ask(message)
        if end is None:
            await self._pipeline.begin_anew(message, caller)
            await self._pipeline.say(message, self._interface.config.texts.new_conversation)
        return end or MessageEnd.HANDLED

    async def _help(self, message: InterfaceMessage, scope: anyio.CancelScope) -> MessageEnd:
        end, _ = await self._pipeline.admission.ask(message)
        if end is None:
            texts = self._interface.config.texts
            commands = "\n".join(f"/{name}: {what}" for name, what in self.descriptions.items())
            text = texts.start if message.command == "start" else texts.help
            await self._pipeline.say(message, text, commands=commands)
        return end or MessageEnd.HANDLED

    async def _call(self, function: ChatCommand, message: InterfaceMessage, scope: anyio.CancelScope) -> MessageEnd:
        end, caller = await self._pipeline.admission.ask(message)
        if end is None:
            await self._pipeline.call_command(message, caller, function, scope)
        return end or MessageEnd.HANDLED

    async def _acknowledge(self, message: InterfaceMessage) -> None:
        try:
            with self._isolation:
                await self._interface.acknowledge(message)
        except Exception as error:
            logger.info("%s: a button or command was not acknowledged: %s", self._name, error_text(error))


def _writer(message: InterfaceMessage) -> tuple[ChatKey, str]:
    return chat_of(message), message.platform_user_id


def _description(name: str, function: ChatCommand) -> str:
    """The first line of a command's docstring."""
    text = inspect.getdoc(function) or ""
    return text.partition("\n")[0].strip() or name
