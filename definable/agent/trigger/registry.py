"""An agent's triggers: registered by `Agent.on`, read by the runtime when it starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, TypeAlias, get_args

from definable.concurrency.call import is_generator_function, takes
from definable.errors import ConfigurationError, RouteConflict

from .base import BaseTrigger
from .webhook import PARAMETER, Webhook

BuiltInPath: TypeAlias = Literal[
    "/health",
    "/run",
    "/runs",
    "/runs/{run_id}",
    "/runs/{run_id}/events",
    "/sessions/{session_id}",
    "/docs",
    "/openapi.json",
]
"""The paths of `runtime/http/routes.py`, whose table takes no others; an agent with webhooks does not load it."""

BUILT_IN_PATHS: tuple[BuiltInPath, ...] = get_args(BuiltInPath)


class TriggerRegistry:
    """Triggers with their handlers, in the order of their registration.

    Args:
        triggers: Those to begin with.
    """

    __slots__ = ("_named", "_routes", "_triggers")

    def __init__(self, triggers: Iterable[BaseTrigger] = ()) -> None:
        self._triggers: list[BaseTrigger] = list(triggers)
        webhooks = [trigger for trigger in self._triggers if isinstance(trigger, Webhook)]
        self._routes = {route: webhook for webhook in webhooks for route in routes_of(webhook)}
        self._named = {each.given_name: each for each in self._triggers if each.given_name is not None}

    def __iter__(self) -> Iterator[BaseTrigger]:
        return iter(tuple(self._triggers))

    def add(self, trigger: BaseTrigger, handler: Callable[..., Any]) -> None:
        """Register a trigger with its handler.

        Raises:
            RouteConflict: Another webhook has the same method and path, or it shadows a built-in route.
            ConfigurationError: The trigger has a handler already, or one of them is not what it should be.
        """
        if not isinstance(trigger, BaseTrigger):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(
                f"on({trigger!r}): a Webhook, a Cron, an Interval, an EventTrigger or another BaseTrigger"
            )
        if is_generator_function(handler):
            raise ConfigurationError(f"the handler of {trigger!r} has a yield and would never run: {handler!r}")
        if not takes(handler, 1):
            raise ConfigurationError(f"the handler of {trigger!r} is a function of the event, not {handler!r}")
        if trigger.handler is not None:
            raise ConfigurationError(f"{trigger!r} has a handler already: a trigger object is registered once")
        if trigger.given_name in self._named:
            other = self._named[trigger.given_name]
            raise ConfigurationError(f"name={trigger.given_name!r} is {other!r}'s already: each trigger has its own")
        if isinstance(trigger, Webhook):
            self._check_route(trigger)
            self._routes.update(dict.fromkeys(routes_of(trigger), trigger))
        if trigger.given_name is not None:
            self._named[trigger.given_name] = trigger
        trigger.handler = handler
        self._triggers.append(trigger)

    def _check_route(self, webhook: Webhook) -> None:
        if any(covers(path, webhook.path) for path in BUILT_IN_PATHS):
            raise RouteConflict(f"{webhook.source} shadows a built-in route: choose another path")
        other = next((self._routes[route] for route in routes_of(webhook) if route in self._routes), None)
        if other is not None:
            raise RouteConflict(f"{webhook.source} is registered already, as {other.source}: choose another path")


def covers(pattern: str, path: str) -> bool:
    """Whether every request to `path` would match `pattern` too."""
    segments, others = pattern.rstrip("/").split("/"), path.rstrip("/").split("/")
    return len(segments) == len(others) and all(
        segment == other or PARAMETER.fullmatch(segment) for segment, other in zip(segments, others, strict=True)
    )


def routes_of(webhook: Webhook) -> list[tuple[str, str]]:
    """The same for webhooks of the same requests: methods and path, its parameters' names aside."""
    path = PARAMETER.sub("{}", webhook.path)
    return [(method, path) for method in webhook.methods]
