"""Buttons under a message (https://core.telegram.org/bots/api#inlinekeyboardmarkup): shown, and pressed (pure)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from definable.agent.interface.message import Button
from definable.concurrency.logs import logger_named

from .update import Message

logger: logging.Logger = logger_named(__name__)

MAX_DATA = 64
"""Bytes that come back with a button (https://core.telegram.org/bots/api#inlinekeyboardbutton, callback_data)."""

MAX_BUTTONS, MAX_IN_ROW = 100, 8
"""Of one message, and of one row: Telegram refuses or drops more (https://limits.tginfo.me/en)."""

CUT = "…"
"""Ends the data of a button that comes back as what it says, where that is longer: the message still has its text."""

URL_SCHEMES = ("http://", "https://", "tg://")


def keyboard(rows: Sequence[Sequence[Button]]) -> tuple[dict[str, Any] | None, list[str]]:
    """Buttons as Telegram takes them, and the texts of those that it does not.

    A value longer than 64 bytes cannot be a button: kept here, it would have to outlive restarts and be known to all
    replicas for as long as the message stands in the chat. So that button is written as text, which a user can send.
    """
    shown: list[list[dict[str, str]]] = []
    written: list[str] = []
    for row in rows:
        known = [(button, _as_button(button)) for button in row]
        written += [_in_words(button) for button, markup in known if markup is None]
        markups = [markup for _, markup in known if markup is not None]
        shown += [markups[at : at + MAX_IN_ROW] for at in range(0, len(markups), MAX_IN_ROW)]
    while sum(map(len, shown)) > MAX_BUTTONS:
        written.append(shown[-1].pop()["text"])
        shown = [row for row in shown if row]
    return ({"inline_keyboard": shown} if shown else None), written


def _as_button(button: Button) -> dict[str, str] | None:
    if button.url is not None:
        return {"text": button.text, "url": button.url} if button.url.lower().startswith(URL_SCHEMES) else None
    data = button.pressed
    if len(data.encode()) > MAX_DATA:
        if button.value is not None:
            logger.warning(
                "telegram: the button %r is written as text: its value has %d bytes, and Telegram takes %d",
                button.text,
                len(data.encode()),
                MAX_DATA,
            )
            return None
        data = data.encode()[: MAX_DATA - len(CUT.encode())].decode(errors="ignore") + CUT
    return {"text": button.text, "callback_data": data} if data else None


def _in_words(button: Button) -> str:
    return f"{button.text}: {button.url}" if button.url is not None else button.text


def pressed(message: Message, data: str) -> tuple[str, str]:
    """What a button of a message says, and its value.

    Args:
        message: The button's.
        data: What came back.
    """
    rows = [] if message.reply_markup is None else message.reply_markup.inline_keyboard
    text = next((button.text for row in rows for button in row if button.callback_data == data), data)
    is_cut = data.endswith(CUT) and text.startswith(data.removesuffix(CUT))
    return text, text if is_cut else data
