"""The moments of a run at which users' functions are called; `Agent` hands them out as decorators."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar, overload

from definable.concurrency.call import call_user, is_generator_function, takes
from definable.concurrency.isolation import is_failure
from definable.concurrency.logs import logger_named

logger: logging.Logger = logger_named(__name__)

Hook: TypeAlias = Callable[..., Any]
HookFunction = TypeVar("HookFunction", bound=Hook)


class HookPoint:
    """One moment of a run, whatever its source, at which users' functions are called, in the order of registration.

    The point itself is the decorator, with or without parentheses: `@agent.before_request`. A hook's failure is logged
    and goes no further: it never cancels the run.

    Args:
        name: What it is called on the agent.
        arguments: What its functions are called with, in words.
    """

    __slots__ = ("_arguments", "hooks", "name")

    def __init__(self, name: str, *arguments: str) -> None:
        self.name: str = name
        self._arguments = arguments
        self.hooks: Sequence[Hook] = ()

    @overload
    def __call__(self, function: HookFunction) -> HookFunction: ...

    @overload
    def __call__(self, function: None = None) -> Callable[[HookFunction], HookFunction]: ...

    def __call__(self, function: HookFunction | None = None) -> HookFunction | Callable[[HookFunction], HookFunction]:
        if function is None:
            return self.__call__
        if not callable(function):
            raise TypeError(f"{self.name} takes a function, not {function!r}")
        if not takes(function, len(self._arguments)):
            raise TypeError(f"{self.name} takes a function of {' and '.join(self._arguments)}, not {function!r}")
        if is_generator_function(function):
            raise TypeError(f"{self.name}: {function!r} has a yield and would never run")
        self.hooks = (*self.hooks, function)
        return function

    async def fire(self, *args: object) -> None:
        """Call every hook; what one raises is logged."""
        for hook in self.hooks:
            try:
                await call_user(hook, *args)
            except BaseException as error:
                if not is_failure(error):
                    raise
                logger.exception("%s hook %s failed", self.name, getattr(hook, "__qualname__", hook))
