"""Slash commands and buttons of the loopback Discord: registering, using, and the rules of answering them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio

from .discord_objects import BOT, BOT_ID, message, snowflake, user

if TYPE_CHECKING:
    from .discord_server import DiscordServer

DEADLINE = 3.0
"""Seconds until an interaction must have been answered."""


@dataclass
class Interaction:
    """One that a user made."""

    channel: str
    is_command: bool
    id: str = field(default_factory=snowflake)
    token: str = field(default_factory=lambda: f"interaction-token-{snowflake()}")
    began: float = field(default_factory=anyio.current_time)
    response: dict[str, Any] | None = None
    """What it was answered with at once."""
    original: str | None = None
    """The message that the answer became."""
    answers: list[str] = field(default_factory=list[str])
    """What the user reads, in order."""
    is_over: bool = False
    """Whether its fifteen minutes have passed."""


class Interactions:
    """Those of one server."""

    def __init__(self, server: DiscordServer) -> None:
        self._server = server
        self.all: dict[str, Interaction] = {}
        """By token."""

    async def use(self, where: str, name: str, text: str | None = None, **changes: Any) -> Interaction:
        """Somebody uses a slash command."""
        options = [] if text is None else [{"name": "text", "type": 3, "value": text}]
        data = {"id": "1", "name": name, "type": 1, "options": options}
        return await self._make(Interaction(where, is_command=True), {"type": 2, "data": data} | changes)

    async def press(self, where: str, custom_id: str, of: dict[str, Any], **changes: Any) -> Interaction:
        """Somebody presses a button of a message."""
        data = {"custom_id": custom_id, "component_type": 2}
        return await self._make(
            Interaction(where, is_command=False), {"type": 3, "data": data, "message": of} | changes
        )

    async def _make(self, made: Interaction, data: dict[str, Any]) -> Interaction:
        self.all[made.token] = made
        common = {
            "id": made.id,
            "token": made.token,
            "application_id": BOT_ID,
            "channel_id": made.channel,
            "version": 1,
        }
        whose = (
            {"member": {"user": user("7", "user7"), "nick": "Al"}}
            if "guild_id" in data
            else {"user": user("7", "user7")}
        )
        await self._server.dispatch("INTERACTION_CREATE", common | whose | {"locale": "de"} | data)
        return made

    def register(self, guild: str | None, commands: Any) -> Any:
        """Bulk Overwrite Application Commands."""
        for each in commands:
            if not re.fullmatch(r"[-_a-z0-9]{1,32}", each["name"]) or not 1 <= len(each["description"]) <= 100:
                return None
        self._server.commands[guild] = {each["name"]: each for each in commands}
        return commands

    def respond(self, id: str, token: str, response: dict[str, Any]) -> tuple[int, Any]:
        """Create Interaction Response."""
        made = self.all.get(token)
        if made is None or made.id != id or anyio.current_time() - made.began > DEADLINE:
            return 404, {"message": "Unknown interaction", "code": 10062}
        if made.response is not None:
            return 400, {"message": "Interaction has already been acknowledged.", "code": 40060}
        if response.get("type") not in ((4, 5) if made.is_command else (4, 5, 6, 7)):
            self._server.violations.append(f"an interaction answered with {response}")
        made.response = response
        return 204, None

    def follow_up(self, token: str, body: dict[str, Any], edited: str | None) -> tuple[int, Any]:
        """Create and Edit Followup Message; the first one after a deferred answer is that answer."""
        made = self.all.get(token)
        if made is None or made.response is None or made.is_over:
            return 404, {"message": "Unknown Webhook", "code": 10015}
        if unknown := body.keys() - {"content", "embeds", "components", "allowed_mentions", "flags", "attachments"}:
            self._server.violations.append(f"a follow-up with {unknown}")
        if (edited == "@original" and made.original is None) or edited is None:
            posted = message(made.channel, BOT, body.get("content") or "")
            made.original = made.original or posted["id"]
            made.answers.append(posted["content"])
            self._server.messages[posted["id"]] = posted
            return 200, posted
        posted = self._server.messages.get(made.original if edited == "@original" else edited)
        if posted is None:
            return 404, {"message": "Unknown Message", "code": 10008}
        posted["content"] = body.get("content")
        return 200, posted
