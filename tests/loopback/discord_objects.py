"""Discord's JSON objects, complete enough for a client library that reads all of their fields."""

from __future__ import annotations

import itertools
import time
from typing import Any

BOT_ID = "100000000000000001"
TOKEN = "MTAwMDAwMDAwMDAwMDAwMDAx.Gk9xYz.loopback-signature_0123456789abcdef"

DISCORD_EPOCH = 1_420_070_400.0

_increments = itertools.count(1)


def snowflake() -> str:
    """A new id; later ones are greater."""
    return str((int((time.time() - DISCORD_EPOCH) * 1000) << 22) + next(_increments) % 4096)


def user(id: str, name: str, *, bot: bool = False) -> dict[str, Any]:
    return {
        "id": id,
        "username": name,
        "discriminator": "0",
        "global_name": None,
        "avatar": None,
        "bot": bot,
        "flags": 0,
    }


BOT = user(BOT_ID, "agent", bot=True)


def application() -> dict[str, Any]:
    owner = user("100000000000000002", "owner")
    return {"id": BOT_ID, "name": "agent", "icon": None, "description": "", "bot_public": True, "owner": owner} | {
        "bot_require_code_grant": False,
        "verify_key": "00",
        "team": None,
        "flags": 0,
    }


def ready(session_id: str, resume_url: str) -> dict[str, Any]:
    return {"v": 10, "user": BOT, "guilds": [], "session_id": session_id, "resume_gateway_url": resume_url} | {
        "application": {"id": BOT_ID, "flags": 0},
        "private_channels": [],
    }


def message(channel: str, author: dict[str, Any], content: str, **changes: Any) -> dict[str, Any]:
    """A message object; `changes` are further fields."""
    return {
        "id": snowflake(),
        "channel_id": channel,
        "author": author,
        "content": content,
        "timestamp": "2026-01-01T00:00:00+00:00",
        "edited_timestamp": None,
        "tts": False,
        "mention_everyone": False,
        "mentions": [],
        "mention_roles": [],
        "attachments": [],
        "embeds": [],
        "pinned": False,
        "type": 0,
        "channel_type": 1,
    } | changes
