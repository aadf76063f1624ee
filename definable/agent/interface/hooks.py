"""Hooks around every message of an interface, the chain in which the pipeline calls them, and two that come along."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import ClassVar

from definable.agent.auth.providers import allowed_ids
from definable.concurrency.call import call_user
from definable.concurrency.isolation import contain_errors
from definable.concurrency.logs import logger_named
from definable.errors import ConfigurationError

from .message import InterfaceMessage, InterfaceResponse
from .sessions import InterfaceSession

__all__ = ["InterfaceHook", "LoggingHook", "AllowlistHook"]

logger: logging.Logger = logger_named(__name__)

ON_ERROR = contain_errors("an on_error hook")

HOOK_METHODS = ("on_message_received", "on_button", "on_before_respond", "on_after_respond", "on_error")


class InterfaceHook:
    """Called around every message; override what you need, sync or async.

    What a hook raises ends the message's way, and the user gets the interface's `error_message`; what `on_error` raises
    is logged and goes no further.
    """

    holds_back_replies: ClassVar[bool] = True
    """Of a hook with `on_after_respond`: whether no part of a reply may be shown before it was called. Set it to False
    where it only looks on: replies are then shown while they are written."""

    async def on_message_received(self, message: InterfaceMessage) -> bool | None:
        """A message came in. False: it is neither answered nor looked at any further."""
        return None

    async def on_before_respond(self, message: InterfaceMessage, session: InterfaceSession) -> InterfaceMessage | None:
        """The agent is about to run; a message that is returned takes the place of the one that came in.

        The message has its session to itself until its run has ended: a run of the agent in that session fails here.
        What is changed in `session.session_state` is saved with the run, also when the run fails.
        """
        return None

    async def on_after_respond(
        self, message: InterfaceMessage, response: InterfaceResponse, session: InterfaceSession
    ) -> InterfaceResponse | None:
        """The agent has answered; a response that is returned is sent in place of its answer."""
        return None

    async def on_button(self, message: InterfaceMessage, session: InterfaceSession) -> InterfaceResponse | bool | None:
        """A button was pressed: `message.button`. A response is sent in place of a run, False ends it without one;
        None: it is answered as a message that says what the button says."""
        return None

    async def on_error(self, error: Exception, message: InterfaceMessage) -> None:
        """The message could not be answered."""


class HookChain:
    """An interface's hooks, called in their order.

    Args:
        hooks: Of the user. One that is no `InterfaceHook` is asked for the methods that it has.
    """

    __slots__ = ("_hooks",)

    def __init__(self, hooks: Sequence[object]) -> None:
        self._hooks = tuple(hooks)

    async def let_in(self, message: InterfaceMessage) -> bool:
        """Whether no hook stops the message; those after one that does are not asked."""
        for hook in self._hooks:
            if await _call(hook, "on_message_received", message) is False:
                return False
        return True

    async def button(self, message: InterfaceMessage, session: InterfaceSession) -> InterfaceResponse | bool | None:
        """What the first hook that knows a pressed button says to it; None where none does."""
        for hook in self._hooks:
            said = await _call(hook, "on_button", message, session)
            if said is False or isinstance(said, InterfaceResponse):
                return said
        return None

    async def before_respond(self, message: InterfaceMessage, session: InterfaceSession) -> InterfaceMessage:
        """The message that the agent is to answer."""
        for hook in self._hooks:
            replacement = await _call(hook, "on_before_respond", message, session)
            if isinstance(replacement, InterfaceMessage):
                message = replacement
        return message

    async def after_respond(
        self, message: InterfaceMessage, response: InterfaceResponse, session: InterfaceSession
    ) -> InterfaceResponse:
        """The response that is to be sent."""
        for hook in self._hooks:
            replacement = await _call(hook, "on_after_respond", message, response, session)
            if isinstance(replacement, InterfaceResponse):
                response = replacement
        return response

    @property
    def hold_back_replies(self) -> bool:
        """Whether a response may still be replaced when the run has ended."""
        return any(_may_replace_response(hook) for hook in self._hooks)

    async def tell_error(self, error: Exception, message: InterfaceMessage) -> None:
        """Tell all hooks of a failure."""
        for hook in self._hooks:
            try:
                with ON_ERROR:
                    await _call(hook, "on_error", error, message)
            except Exception:
                logger.exception("the on_error hook of %s failed", type(hook).__name__)


def check_hook(hook: object) -> None:
    """Refuse what would never be called: it might be there to refuse messages.

    Raises:
        ConfigurationError: It has none of a hook's methods, or is a class.
    """
    if isinstance(hook, type) or not any(hasattr(hook, name) for name in HOOK_METHODS):
        raise ConfigurationError(f"{hook!r} is no hook: an object with one of {', '.join(HOOK_METHODS)}")


async def _call(hook: object, name: str, *args: object) -> object:
    method = getattr(hook, name, None)
    return None if method is None else await call_user(method, *args)


def _may_replace_response(hook: object) -> bool:
    method = getattr(hook, "on_after_respond", None)
    is_inherited = getattr(method, "__func__", None) is InterfaceHook.on_after_respond
    return method is not None and not is_inherited and getattr(hook, "holds_back_replies", True)


class AllowlistHook(InterfaceHook):
    """Stops the messages of everybody who is not listed, without a word to them.

    What is given restricts; an empty list refuses everybody. `AllowlistAuth` does the same and says who the user is.

    Args:
        allowed_user_ids: The platform's ids of the only users; None for any user.
        allowed_chat_ids: The platform's ids of the only chats; None for any chat.
    """

    def __init__(
        self,
        allowed_user_ids: Iterable[str | int] | None = None,
        allowed_chat_ids: Iterable[str | int] | None = None,
    ) -> None:
        self._user_ids = allowed_ids("AllowlistHook(allowed_user_ids", allowed_user_ids)
        self._chat_ids = allowed_ids("AllowlistHook(allowed_chat_ids", allowed_chat_ids)

    async def on_message_received(self, message: InterfaceMessage) -> bool:
        if self._user_ids is not None and message.platform_user_id not in self._user_ids:
            return False
        return self._chat_ids is None or message.platform_chat_id in self._chat_ids


class LoggingHook(InterfaceHook):
    """Logs every message, response and failure: who and how much, never what was said.

    Args:
        logger: Where to; `definable.agent.interface` when None.
        level: Of messages and responses; failures are warnings.
    """

    holds_back_replies: ClassVar[bool] = False

    def __init__(self, logger: logging.Logger | None = None, level: int = logging.INFO) -> None:
        self._logger = logger_named("definable.agent.interface") if logger is None else logger
        self._level = level

    async def on_message_received(self, message: InterfaceMessage) -> bool | None:
        self._logger.log(
            self._level,
            "%s: message %s of user %s in chat %s, %d characters",
            message.platform,
            message.platform_message_id,
            message.platform_user_id,
            message.platform_chat_id,
            len(message.text or ""),
        )
        return None

    async def on_after_respond(
        self, message: InterfaceMessage, response: InterfaceResponse, session: InterfaceSession
    ) -> InterfaceResponse | None:
        self._logger.log(
            self._level,
            "%s: message %s is answered with %d characters, session %s",
            message.platform,
            message.platform_message_id,
            len(response.content or ""),
            session.session_id,
        )
        return None

    async def on_error(self, error: Exception, message: InterfaceMessage) -> None:
        self._logger.warning(
            "%s: message %s failed: %s: %s",
            message.platform,
            message.platform_message_id,
            type(error).__name__,
            error,
        )
