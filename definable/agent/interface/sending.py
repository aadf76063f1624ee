"""A whole response on its way to its chat, in parts that the platform takes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from .message import InterfaceMessage, InterfaceResponse
from .splitting import split_text

if TYPE_CHECKING:
    from .base import BaseInterface


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
    parts = split_text(response.content or "", interface.config.max_message_length)[shown:]
    for part in parts[:-1]:
        await interface.send(message, InterfaceResponse(part, metadata=response.metadata))
    last = replace(response, content=parts[-1] if parts else None)
    if not last.is_empty:
        await interface.send(message, last)
