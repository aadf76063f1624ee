"""How a reply reaches its chat: whole and in parts, or posted while the model writes it and edited until it is whole.

The pipeline has a `StreamedReply` follow the run and finish with the response; `ReplyDraft` decides, without I/O, what
is posted or edited when.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from definable.agent.run.output import Listener, RunEvent, RunOutput, TextDelta, ToolCallStarted
from definable.concurrency.backoff import Backoff
from definable.concurrency.call import closing_what_it_leaves
from definable.concurrency.isolation import contain_errors, error_text
from definable.concurrency.logs import logger_named

from .errors import (
    InterfaceConnectionError,
    InterfaceError,
    InterfaceMessageError,
    InterfaceRateLimitError,
    retried,
)
from .message import InterfaceMessage, InterfaceResponse
from .splitting import split_text

if TYPE_CHECKING:
    from .base import BaseInterface

logger: logging.Logger = logger_named(__name__)

LAST_EDIT_BACKOFF = Backoff(jitter=0.0, max_tries=5, max_retry_after=120.0)
"""Between the tries of a last edit."""

BACKGROUND = contain_errors("background work of an interface")

Result = TypeVar("Result")


async def send_response(
    interface: BaseInterface, message: InterfaceMessage, response: InterfaceResponse, *, shown: int = 0
) -> None:
    """Send a response, its media with the last part; an empty one is not sent.

    Args:
        interface: Sends it.
        message: What is answered.
        response: Of any length.
        shown: How many parts are in the chat already.

    Raises:
        InterfaceError: It was not sent, or not whole.
    """
    for part in parts_of(response, interface.max_part_length, shown=shown):
        await interface.send(message, part)


def parts_of(response: InterfaceResponse, limit: int, *, shown: int = 0) -> list[InterfaceResponse]:
    """A response in parts that a platform takes, its media with the last.

    Args:
        response: Of any length.
        limit: UTF-16 code units of one part.
        shown: How many parts are in the chat already.
    """
    texts = split_text(response.content or "", limit)[shown:]
    parts = [InterfaceResponse(text, metadata=response.metadata) for text in texts[:-1]]
    last = replace(response, content=texts[-1] if texts else None)
    return [*parts, *([] if last.is_empty else [last])]


async def while_typing(
    show: Callable[[], Awaitable[None]], interval: float, work: Callable[[], Awaitable[Result]]
) -> Result:
    """Do a piece of work, and show all the while that the agent is typing.

    Args:
        show: Shows it for a few seconds; what it raises is logged, and it is shown again after the next interval.
        interval: Seconds after which it must be shown again.
        work: What is done.
    """

    async def keep_showing() -> None:
        while True:
            await _in_background(show)
            await anyio.sleep(interval)

    return await run_with_background(work, keep_showing)


class StreamedReply:
    """Shows one reply.

    Args:
        interface: Posts and edits.
        message: What is answered.
    """

    def __init__(self, interface: BaseInterface, message: InterfaceMessage) -> None:
        self._interface = interface
        self._message = message
        self._draft = ReplyDraft(interface.max_part_length, interface.edit_interval)
        self._heard = anyio.Event()
        self._over = anyio.Event()

    async def follow(self, run: Callable[[Listener], Awaitable[RunOutput]]) -> RunOutput:
        """Make a run and show what it writes.

        A request that is under way when the run ends is waited for: a message that was posted without our knowing its
        id would be there twice.
        """
        return await run_with_background(partial(run, self._hear), self._keep_showing, self._end)

    async def finish(self, response: InterfaceResponse) -> None:
        """Show a response in place of what was shown of the run; whole when that is nothing.

        Raises:
            InterfaceError: It is not shown, or not whole.
        """
        text, draft = response.content or "", self._draft
        for change in [change for change in draft.changes(text) if change.posted is not None]:
            if not await self._make_sure(partial(self._show, change)):
                await self._interface.send(self._message, InterfaceResponse(change.text, metadata=response.metadata))
        for posted in draft.surplus(text):
            await self._delete(posted)
        await send_response(self._interface, self._message, response, shown=draft.count)

    # --- during the run

    async def _hear(self, event: RunEvent) -> None:
        self._draft.hear(event, anyio.current_time())
        self._heard.set()

    def _end(self) -> None:
        self._over.set()
        self._heard.set()

    async def _keep_showing(self) -> None:
        while not (self._over.is_set() or self._draft.is_given_up):
            due = self._draft.due
            if due is None:
                self._heard = anyio.Event()
                await self._heard.wait()
            elif due > anyio.current_time():
                with anyio.CancelScope(deadline=due):
                    await self._over.wait()
            elif (change := self._draft.next_change()) is not None:
                await self._try(change)

    async def _try(self, change: Change) -> None:
        try:
            await self._show(change)
        except Exception as error:
            logger.debug("%s: a reply is not shown for now", self._interface.name, exc_info=True)
            retry_after = error.retry_after if isinstance(error, InterfaceRateLimitError) else None
            if retry_after is not None:
                self._draft.hold(anyio.current_time() + retry_after)
            # A post that failed may have arrived all the same: it is not made again.
            self._draft.is_given_up = change.posted is None or retry_after is None

    async def _show(self, change: Change) -> None:
        draft = self._draft
        draft.began(change, anyio.current_time())
        if change.posted is None:
            posted = await self._interface.post(self._message, change.text)
        else:
            posted = change.posted
            await self._interface.edit(self._message, posted, change.text)
        if posted is None:
            draft.is_given_up = True
        else:
            draft.made(change, posted, anyio.current_time())

    # --- at its end

    async def _make_sure(self, request: Callable[[], Awaitable[None]]) -> bool:
        """Make a request that may be made twice; False when the platform refuses it: the message is gone, or it may not
        be edited for a long while."""

        async def once() -> None:
            pause = self._draft.pause(anyio.current_time())
            await anyio.sleep(pause if pause <= LAST_EDIT_BACKOFF.max_retry_after else 0.0)
            await request()

        try:
            await retried(once, LAST_EDIT_BACKOFF, InterfaceRateLimitError, InterfaceConnectionError)
        except (InterfaceMessageError, InterfaceRateLimitError) as refusal:
            logger.debug("%s: a message cannot be edited: %s", self._interface.name, refusal)
            return False
        return True

    async def _delete(self, posted: str) -> None:
        try:
            await self._make_sure(partial(self._interface.delete, self._message, posted))
        except Exception as error:  # the reply itself is there
            logger.warning(
                "%s: a message that the reply no longer needs could not be deleted: %s",
                self._interface.name,
                error_text(error),
            )


@dataclass(frozen=True, slots=True)
class Change:
    """A piece of the text that is not shown as it is now."""

    index: int
    """Which of the pieces."""
    text: str
    posted: str | None
    """The id of the message that is to show it; None: a message is to be posted."""


@dataclass(slots=True)
class _Posted:
    id: str
    text: str | None
    """What it shows; None when that is not known."""


class ReplyDraft:
    """What a run has written so far, and what of it is shown.

    Nothing is shown until `interval` seconds after the first text: a quick reply comes whole. Then one thing is done
    every `interval` seconds. Times are seconds of any clock that never goes back.

    Args:
        limit: UTF-16 code units of one message.
        interval: Seconds from one change of what is shown to the next.
    """

    def __init__(self, limit: int, interval: float) -> None:
        self.is_given_up = False
        """Whether nothing more is shown before the end."""
        self._limit = limit
        self._interval = interval
        self._text: list[str] = []
        self._is_turn_over = False
        self._is_shown_whole = True
        self._not_before: float | None = None
        """The next change; None before the first text."""
        self._posted: list[_Posted] = []

    def hear(self, event: RunEvent, now: float) -> None:
        """Take in what happens in the run; what the model writes after its tools were called takes the place of what it
        wrote before.
        """
        if isinstance(event, ToolCallStarted):
            self._is_turn_over = True
        elif isinstance(event, TextDelta):
            if self._is_turn_over:
                self._text.clear()
                self._is_turn_over = False
            self._text.append(event.text)
            self._is_shown_whole = False
            if self._not_before is None:
                self._not_before = now + self._interval

    @property
    def due(self) -> float | None:
        """When to show what comes next; None while there is nothing."""
        return None if self._is_shown_whole or self.is_given_up else self._not_before

    def next_change(self) -> Change | None:
        """What to show next; None when all is shown."""
        text = "".join(self._text)
        self._text = [text]
        change = next(self.changes(text), None)
        self._is_shown_whole = change is None
        return change

    def changes(self, text: str) -> Iterator[Change]:
        """What is missing until a text is shown, from its beginning on."""
        for index, piece in enumerate(split_text(text, self._limit)):
            posted = self._posted[index] if index < len(self._posted) else None
            if posted is None or posted.text != piece:
                yield Change(index, piece, None if posted is None else posted.id)

    def surplus(self, text: str) -> Sequence[str]:
        """The ids of messages that have no piece of a text to show."""
        return [each.id for each in self._posted[len(split_text(text, self._limit)) :]]

    @property
    def count(self) -> int:
        """How many messages were posted."""
        return len(self._posted)

    def pause(self, now: float) -> float:
        """Seconds until the next change may be made."""
        return 0.0 if self._not_before is None else max(0.0, self._not_before - now)

    def began(self, change: Change, now: float) -> None:
        """A change is being made: until it is known to be, it is not known what its message shows."""
        self._not_before = now + self._interval
        if change.posted is not None:
            self._posted[change.index].text = None

    def made(self, change: Change, posted: str, now: float) -> None:
        """A change was made.

        Args:
            change: Which.
            posted: The id of the message that shows it.
            now: When.
        """
        self._not_before = now + self._interval
        if change.posted is None:
            self._posted.append(_Posted(posted, change.text))
        else:
            self._posted[change.index].text = change.text

    def hold(self, until: float) -> None:
        """Change nothing until then."""
        self._not_before = until


async def run_with_background(
    work: Callable[[], Awaitable[Result]],
    background: Callable[[], Coroutine[Any, Any, None]],
    dismiss: Callable[[], None] | None = None,
) -> Result:
    """Run `work`; cancel `background` when it ends.

    Args:
        work: What it raises comes out as it is.
        background: What it raises is logged, and ends the background alone.
        dismiss: Tells the background that the work is over, and it is waited for; None: it is cancelled then.
    """
    failure: Exception | None = None
    result: list[Result] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_in_background, background)
        try:
            result.append(await work())
        except Exception as error:  # raised below: the group would wrap it
            failure = error
        if dismiss is None:
            tasks.cancel_scope.cancel()
        else:
            dismiss()
    if failure is not None:
        raise failure
    return result[0]


async def _in_background(work: Callable[[], Awaitable[None]]) -> None:
    try:
        with BACKGROUND:  # in a task of its own, where asyncio would end the event loop at a `SystemExit`
            await closing_what_it_leaves(work, work)
    except Exception as error:  # a platform that cannot be reached says so elsewhere
        level = logging.DEBUG if isinstance(error, InterfaceError | OSError) else logging.WARNING
        logger.log(level, "background work of an interface failed", exc_info=True)
