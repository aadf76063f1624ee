"""A reply that is posted while the model writes it, and edited until it is whole.

The pipeline has it follow the run, and finish with the response. What is done when is `reply_draft.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

import anyio

from definable.agent.error_text import error_text
from definable.agent.run_event import Listener, RunEvent
from definable.agent.run_output import RunOutput

from .companion import with_companion
from .errors import InterfaceConnectionError, InterfaceMessageError, InterfaceRateLimitError
from .message import InterfaceMessage, InterfaceResponse
from .reply_draft import Change, ReplyDraft
from .sending import send_response

if TYPE_CHECKING:
    from .base import BaseInterface

logger: logging.Logger = logging.getLogger(__name__)

MAX_TRIES = 5
"""Of a last edit."""

LONGEST_WAIT = 120.0
"""Seconds that a platform may ask to be left alone before a last edit; for longer nobody waits."""


class StreamedReply:
    """Shows one reply.

    Args:
        interface: Posts and edits.
        message: What is answered.
    """

    def __init__(self, interface: BaseInterface, message: InterfaceMessage) -> None:
        self._interface = interface
        self._message = message
        self._draft = ReplyDraft(interface.config.max_message_length, interface.edit_interval)
        self._heard = anyio.Event()
        self._over = anyio.Event()

    async def follow(self, run: Callable[[Listener], Awaitable[RunOutput]]) -> RunOutput:
        """Make a run and show what it writes.

        A request that is under way when the run ends is waited for: a message that was posted and is not known of
        would be there twice.
        """
        return await with_companion(partial(run, self._hear), self._keep_showing, self._end)

    async def finish(self, response: InterfaceResponse) -> None:
        """Show a response in place of what was shown of the run; whole when that is nothing.

        Raises:
            InterfaceError: It is not shown, or not whole.
        """
        text, draft = response.content or "", self._draft
        for change in [change for change in draft.changes(text) if change.posted is not None]:
            if not await self._for_sure(partial(self._show, change)):
                await self._interface.send(self._message, InterfaceResponse(change.text, metadata=response.metadata))
        for posted in draft.surplus(text):
            await self._take_back(posted)
        await send_response(self._interface, self._message, response, shown=draft.count)

    # --- while the run goes on

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
            # A message that was not posted for all we know may be there: it is not posted again.
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

    async def _for_sure(self, request: Callable[[], Awaitable[None]]) -> bool:
        """Make a request that may be made twice; False when the platform refuses it: the message is gone."""
        tries = 0
        while True:
            pause = self._draft.pause(anyio.current_time())
            await anyio.sleep(pause if pause <= LONGEST_WAIT else 0.0)
            tries += 1
            try:
                await request()
            except InterfaceMessageError as refusal:
                logger.debug("%s: a message cannot be edited: %s", self._interface.name, refusal)
                return False
            except (InterfaceRateLimitError, InterfaceConnectionError) as error:
                seconds = wait_after(error, tries)
                if seconds is None:
                    raise
                self._draft.hold(anyio.current_time() + seconds)
            else:
                return True

    async def _take_back(self, posted: str) -> None:
        try:
            await self._for_sure(partial(self._interface.delete, self._message, posted))
        except Exception as error:  # the reply itself is there
            logger.warning("%s: a message could not be taken back: %s", self._interface.name, error_text(error))


def wait_after(error: InterfaceRateLimitError | InterfaceConnectionError, tries: int) -> float | None:
    """Seconds before a request that has failed so many times is made again; None when it is not."""
    if tries >= MAX_TRIES:
        return None
    asked = error.retry_after if isinstance(error, InterfaceRateLimitError) else None
    if asked is None:
        return 2.0 ** (tries - 1)
    return asked if asked <= LONGEST_WAIT else None
