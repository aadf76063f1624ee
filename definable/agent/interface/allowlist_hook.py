"""A hook that lets in the listed users alone."""

from __future__ import annotations

from collections.abc import Iterable

from .hook import InterfaceHook
from .message import InterfaceMessage


class AllowlistHook(InterfaceHook):
    """Stops the messages of everybody who is not listed, without a word to them.

    What is given restricts, and an empty list lets nobody in. `AllowlistAuth` does the same and says who the user is.

    Args:
        allowed_user_ids: The platform's ids of the only users; None for any user.
        allowed_chat_ids: The platform's ids of the only chats; None for any chat.
    """

    def __init__(
        self,
        allowed_user_ids: Iterable[str | int] | None = None,
        allowed_chat_ids: Iterable[str | int] | None = None,
    ) -> None:
        self._user_ids = _id_set(allowed_user_ids)
        self._chat_ids = _id_set(allowed_chat_ids)

    async def on_message_received(self, message: InterfaceMessage) -> bool:
        if self._user_ids is not None and message.platform_user_id not in self._user_ids:
            return False
        return self._chat_ids is None or message.platform_chat_id in self._chat_ids


def _id_set(ids: Iterable[str | int] | None) -> frozenset[str] | None:
    if ids is None:
        return None
    return frozenset([ids]) if isinstance(ids, str) else frozenset(map(str, ids))
