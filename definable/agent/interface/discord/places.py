"""What Discord's messages leave out of where they were written: a thread's channel, and the names of what is mentioned.

Asked once for each channel and server, and kept.
"""

from __future__ import annotations

import logging
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from definable.agent.interface.errors import InterfaceError, InterfaceMessageError
from definable.concurrency.logs import logger_named

from .fields import object_of, objects_of, text_of

logger: logging.Logger = logger_named(__name__)

THREADS = (10, 11, 12)
"""Types of channels that belong to another one: announcement, public (forum posts too) and private threads (Discord's
"Channel" resource, Channel Types)."""

MAX_KNOWN = 10_000
"""Channels and servers; beyond it the one that was used longest ago is asked for again."""

MAX_NAMES = 5
"""Channels of one message whose names are asked for."""

_CHANNEL = re.compile(r"<#(\d+)>")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a message was written."""

    channel: str
    thread: str | None = None
    """The thread within the channel; a forum post is one."""
    names: Mapping[str, str] = field(default_factory=dict[str, str])
    """Of channels and roles that are mentioned, by id."""
    own_roles: frozenset[str] = frozenset()
    """The roles that stand for the bot itself: mentioning one means the bot."""


class Places:
    """Asks for what is not known yet.

    Args:
        get_channel: `GET /channels/{channel}`.
        get_roles: `GET /guilds/{guild}/roles`.
    """

    def __init__(
        self, get_channel: Callable[[str], Awaitable[Any]], get_roles: Callable[[str], Awaitable[Any]]
    ) -> None:
        self._get_channel = get_channel
        self._get_roles = get_roles
        self._known: OrderedDict[tuple[str, str], Any] = OrderedDict()

    async def of(self, data: Mapping[str, Any], user_id: str | None) -> Place:
        """Where a message was written; a channel that cannot be asked for counts as one without threads.

        Args:
            data: Of the message.
            user_id: The bot's own.
        """
        channel, guild = str(data.get("channel_id")), text_of(data.get("guild_id"))
        if guild is None:
            return Place(channel)
        about = object_of(data.get("channel"))  # an interaction has it
        if not about or (about.get("type") in THREADS and not about.get("parent_id")):
            about = object_of(await self._ask("channel", channel, self._get_channel))
        names = {id: await self._channel_name(id) for id in _CHANNEL.findall(str(data.get("content")))[:MAX_NAMES]}
        own: list[str] = []
        if data.get("mention_roles"):
            for role in objects_of(await self._ask("roles", guild, self._get_roles)):
                id = str(role.get("id"))
                names[id] = text_of(role.get("name")) or ""
                # The role that Discord makes for a bot (Discord's "Permissions", Role Tags Structure).
                own += [id] if object_of(role.get("tags")).get("bot_id") == user_id else []
        parent = text_of(about.get("parent_id"))
        is_thread = parent is not None and about.get("type") in THREADS
        place = (parent or channel, channel) if is_thread else (channel, None)
        return Place(*place, {id: name for id, name in names.items() if name}, frozenset(own))

    async def _channel_name(self, id: str) -> str:
        return text_of(object_of(await self._ask("channel", id, self._get_channel)).get("name")) or ""

    async def _ask(self, kind: str, id: str, ask: Callable[[str], Awaitable[Any]]) -> Any:
        known: Any = self._known.get((kind, id))
        if known is None:
            try:
                known = await ask(id)
            except InterfaceMessageError as refusal:
                logger.debug("discord: %s %s cannot be looked at: %s", kind, id, refusal)
                known = dict[str, Any]()
            except InterfaceError as error:  # it may be there the next time
                logger.info("discord: %s %s is not known: %s", kind, id, error)
                return dict[str, Any]()
        self._known[kind, id] = known
        self._known.move_to_end((kind, id))
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        return known
