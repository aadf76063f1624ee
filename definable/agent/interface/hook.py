"""Hooks around every message of an interface, and the chain in which they are called."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import ClassVar

from definable.agent.calling import call_user
from definable.agent.isolation import Isolation
from definable.errors import ConfigurationError

from .message import InterfaceMessage, InterfaceResponse
from .session import InterfaceSession

logger: logging.Logger = logging.getLogger(__name__)

ON_ERROR = Isolation("an on_error hook")

HOOK_METHODS = ("on_message_received", "on_before_respond", "on_after_respond", "on_error")


class InterfaceHook:
    """Called around every message; override what you need, sync or async.

    What a hook raises ends the message's way, and the user gets the interface's `error_message`; what `on_error` raises
    is logged and goes no further.
    """

    holds_back_replies: ClassVar[bool] = True
    """Of a hook with `on_after_respond`: whether nobody may see any of a reply before it was called. Set it to False
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
    """Refuse what would never be called, and might be there to keep somebody out.

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
