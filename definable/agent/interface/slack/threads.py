"""Threads: whether they began with the app, and what was said in them before it came in."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import anyio

from definable.agent.interface.errors import InterfaceError
from definable.agent.interface.message import InterfaceMessage, QuotedMessage
from definable.concurrency.logs import logger_named

from .client import ONCE, SlackAPI
from .content import Me, means_app, people_in, readable, thread_context
from .people import PATIENCE, People

logger: logging.Logger = logger_named(__name__)

THREAD_LIMIT = 15
"""Messages of a thread that are read (https://docs.slack.dev/reference/methods/conversations.replies)."""

MAX_THREADS = 10_000
"""Threads of which it is remembered whether they began with the app."""


class Threads:
    """Reads threads.

    Args:
        api: The Web API.
        me: Who the app is.
        people: Whose names are known.
    """

    def __init__(self, api: SlackAPI, me: Me, people: People) -> None:
        self._api = api
        self._me = me
        self._people = people
        self._own: OrderedDict[tuple[str, str], bool] = OrderedDict()
        """Whether a thread began with the app, by channel and thread."""

    async def is_own(self, message: InterfaceMessage) -> bool:
        """Whether a message is in a thread that began with the app, and means nobody else."""
        raw, thread = message.metadata["raw"], message.thread_id
        if thread is None or raw.get("thread_ts") != thread or message.metadata.get("mentions_others"):
            return False
        key = (message.platform_chat_id, thread)
        if key not in self._own:
            with anyio.move_on_after(PATIENCE):
                replies = await self._replies(message, 1)
                if replies is not None:
                    self._own[key] = means_app(replies[0] if replies else None, self._me)
            if len(self._own) > MAX_THREADS:
                self._own.popitem(last=False)
        return self._own.get(key, False)

    async def before(self, message: InterfaceMessage) -> tuple[QuotedMessage, ...]:
        """What was said in a thread before a message, where the app has said nothing in it."""
        raw: Mapping[str, Any] = message.metadata.get("raw", {})
        if raw.get("thread_ts") is None or raw.get("ts") in (None, raw["thread_ts"]):
            return ()
        said = thread_context(await self._replies(message, THREAD_LIMIT) or (), raw["ts"], self._me)
        collected = message.metadata.get("collected", ())  # they are parts of the message itself
        before = tuple(each for each in said or () if each.message_id not in collected)
        quoted = replace(message, text=None, context=before)
        return readable(quoted, await self._people.find(people_in(quoted), self._api), self._me).context

    async def _replies(self, message: InterfaceMessage, limit: int) -> list[object] | None:
        """The beginning of a message's thread; None where it cannot be read."""
        place: dict[str, Any] = {"channel": message.platform_chat_id, "ts": message.thread_id}
        try:
            answer = await self._api.call("conversations.replies", backoff=ONCE, limit=limit, **place)
        except InterfaceError as error:
            logger.debug("slack: thread %s cannot be read: %s", message.thread_id, error)
            return None
        said: object = answer.get("messages")
        return cast("list[object]", said) if isinstance(said, list) else []
