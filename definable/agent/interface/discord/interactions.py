"""Slash commands and buttons: what Discord sends of them, and how they are answered.

An interaction must be answered within 3 s, and its token is good for 15 minutes. So it is answered at once: a command
with a message that says the bot is thinking, which becomes the answer, a button with nothing that anybody sees.
Source: Discord's "Receiving and Responding to Interactions"; "Application Commands".
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from definable.agent.interface.message import InterfaceMessage

from .fields import object_of, objects_of, text_of
from .incoming import NotAMessage, created_at, name_of
from .places import Place

COMMAND, COMPONENT = 2, 3
"""Types of interactions."""

BUTTON = 2
"""The type of a component."""

DEFERRED_ANSWER, DEFERRED_UPDATE = 5, 6
"""Types of responses: the bot is thinking; nothing is seen."""

EPHEMERAL = 1 << 6
"""The flag of a message that is shown to one user alone."""

TOKEN_LIFETIME = 14 * 60.0
"""Seconds for which an interaction's token is used; Discord says 15 minutes."""

OWN_COMMANDS = frozenset({"stop", "new", "help", "start"})
"""Commands of the service: they take no text, and in a server their answers are for who used them."""

MAX_DESCRIPTION = 100
"""Characters of a command's description."""

TEXT_OPTION: Mapping[str, Any] = {
    "type": 3,
    "name": "text",
    "description": "What the command is about",
    "required": False,
}


def read_interaction(data: Mapping[str, Any], platform: str, place: Place) -> InterfaceMessage | None:
    """The message of an INTERACTION_CREATE event; None when it is neither a slash command nor a button.

    Args:
        data: The event's.
        platform: The interface's name.
        place: Where it was used.

    Raises:
        NotAMessage: An id is missing.
    """
    what = object_of(data.get("data"))
    is_command = data.get("type") == COMMAND and what.get("type", 1) == 1
    if not is_command and not (data.get("type") == COMPONENT and what.get("component_type") == BUTTON):
        return None
    member = object_of(data.get("member"))
    user = object_of(member.get("user")) or object_of(data.get("user"))
    ids = (user.get("id"), data.get("channel_id"), data.get("id"), data.get("application_id"), data.get("token"))
    if not all(isinstance(id, str) for id in ids):
        raise NotAMessage("an interaction without its ids or its token")
    id, application, token = cast("tuple[str, str, str]", ids[2:])
    guild = text_of(data.get("guild_id"))
    values: dict[str, Any] = {}
    if is_command:
        values = {"command": text_of(what.get("name")), "text": " ".join(_arguments(what)) or None}
    else:
        of, custom_id = object_of(data.get("message")), str(what.get("custom_id"))
        # Behind its number is the value that `outgoing.py` gave it.
        values = {"button": custom_id.partition(":")[2] or custom_id, "text": _label(of, custom_id)}
        values["reply_to_message_id"] = text_of(of.get("id"))
    return InterfaceMessage(
        platform,
        str(user.get("id")),
        place.channel,
        id,
        username=text_of(user.get("username")),
        metadata={
            "guild_id": guild,
            "display_name": name_of(user, member),
            "is_bot": False,
            "interaction": {"id": id, "application_id": application, "token": token},
            "raw": dict(data),
        },
        created_at=created_at(id),
        is_direct=guild is None,
        thread_id=place.thread,
        locale=text_of(data.get("locale")),
        **values,
    )


def acknowledgement(message: InterfaceMessage) -> dict[str, Any]:
    """What a slash command or a button is answered with at once."""
    if message.button is not None:
        return {"type": DEFERRED_UPDATE}
    is_private = message.command in OWN_COMMANDS and not message.is_direct
    return {"type": DEFERRED_ANSWER, **({"data": {"flags": EPHEMERAL}} if is_private else {})}


def interaction_of(message: InterfaceMessage) -> tuple[str, str] | None:
    """The application and the token by which a slash command is answered still; None for every other message."""
    interaction = object_of(message.metadata.get("interaction"))
    if message.command is None or not interaction or time.time() - message.created_at > TOKEN_LIFETIME:
        return None
    return str(interaction.get("application_id")), str(interaction.get("token"))


def command_list(commands: Mapping[str, str]) -> Sequence[dict[str, Any]]:
    """Slash commands as the API takes them.

    Args:
        commands: Their descriptions by name.
    """
    return [
        {
            "name": name,
            "type": 1,
            "description": (description or name)[:MAX_DESCRIPTION],
            "options": [] if name in OWN_COMMANDS else [dict(TEXT_OPTION)],
        }
        for name, description in commands.items()
    ]


def _arguments(command: Mapping[str, Any]) -> Iterator[str]:
    """What was filled in; where there is more than the text, by name. Subcommands have options of their own."""
    options = objects_of(command.get("options"))
    for option in options:
        if "options" in option or "value" not in option:
            yield str(option.get("name"))
            yield from _arguments(option)
        elif len(options) == 1:
            yield str(option["value"])
        else:
            yield f"{option.get('name')}: {option['value']}"


def _label(message: Mapping[str, Any], custom_id: str) -> str | None:
    buttons = [each for row in objects_of(message.get("components")) for each in objects_of(row.get("components"))]
    return next((text_of(each.get("label")) for each in buttons if each.get("custom_id") == custom_id), None)
