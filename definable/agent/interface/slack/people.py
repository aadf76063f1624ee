"""What Slack's users are called, and where they are: asked once an hour.

Source: https://docs.slack.dev/reference/methods/users.info
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import anyio

from definable.agent.interface.errors import InterfaceError
from definable.concurrency.logs import logger_named

from .client import ONCE, SlackAPI

logger: logging.Logger = logger_named(__name__)

MAX_PEOPLE = 10_000
"""Users that are remembered; beyond it the one who was not asked for longest is forgotten."""

FRESH_FOR = 3600.0
"""Seconds."""

ASK_AGAIN_AFTER = 60.0
"""Seconds, where nobody could say it."""

PATIENCE = 1.5
"""Seconds that a message waits for names: Slack waits three for its acknowledgement."""


@dataclass(frozen=True, slots=True)
class Person:
    """A user."""

    name: str | None = None
    locale: str | None = None
    timezone: str | None = None


class People:
    """Remembers users."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[Person, float]] = OrderedDict()
        """With the time until which each is good."""

    async def find(self, ids: Iterable[str], api: SlackAPI) -> Mapping[str, Person]:
        """Those of these users that are known, or become so in a moment."""
        wanted = list(dict.fromkeys(ids))
        with anyio.move_on_after(PATIENCE) as patience:
            for id in wanted:
                _, good_until = self._known.get(id, (None, 0.0))
                if good_until <= anyio.current_time():
                    await self._ask(id, api)
        if patience.cancelled_caught:  # or every message would wait for as long
            for id in [id for id in wanted if id not in self._known]:
                self.note(id, Person(), ASK_AGAIN_AFTER)
        return {id: self._known[id][0] for id in wanted if id in self._known}

    async def _ask(self, id: str, api: SlackAPI) -> None:
        former, _ = self._known.get(id, (Person(), 0.0))
        try:
            answer = await api.call("users.info", backoff=ONCE, user=id, include_locale=True)
            found, seconds = person_of(answer.get("user")), FRESH_FOR
        except InterfaceError as error:
            logger.debug("slack: user %s has no name: %s", id, error)
            found, seconds = former, ASK_AGAIN_AFTER
        self.note(id, found, seconds)

    def note(self, id: str, person: Person, seconds: float = math.inf) -> None:
        """Remember a user for so many seconds."""
        self._known[id] = person, anyio.current_time() + seconds
        self._known.move_to_end(id)
        if len(self._known) > MAX_PEOPLE:
            self._known.popitem(last=False)


def person_of(user: object) -> Person:
    """A user object; the name is the one that Slack shows."""
    fields = cast("dict[str, Any]", user) if isinstance(user, dict) else {}
    profile: object = fields.get("profile")
    shown = cast("dict[str, Any]", profile) if isinstance(profile, dict) else {}
    names = shown.get("display_name"), shown.get("real_name"), fields.get("real_name"), fields.get("name")
    name = next((each for each in names if isinstance(each, str) and each), None)
    return Person(name, *(each if isinstance(each, str) else None for each in (fields.get("locale"), fields.get("tz"))))
