"""Registering triggers with their handlers."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from definable.agent import Agent
from definable.agent.trigger import Cron, EventTrigger, TriggerEvent, Webhook
from definable.agent.trigger.registry import TriggerRegistry
from definable.errors import ConfigurationError, RouteConflict


def handle(event: TriggerEvent) -> None: ...


def take_nothing() -> None: ...


def take_two(event: TriggerEvent, other: object) -> None: ...


def take_by_name(*, event: TriggerEvent) -> None: ...


def take_all(*events: TriggerEvent) -> None: ...


class Bell:
    def ring(self, event: TriggerEvent) -> None: ...

    def __call__(self, event: TriggerEvent, loud: bool = False) -> None: ...


def test_on_registers_a_handler_and_returns_it() -> None:
    agent, trigger = Agent("offline"), EventTrigger("x")
    assert agent.on(trigger)(handle) is handle
    assert list(agent.triggers) == [trigger]
    assert trigger.handler is handle


@pytest.mark.parametrize("handler", [handle, Bell().ring, Bell(), functools.partial(handle), take_all, print, dict])
def test_whatever_takes_an_event_is_a_handler(handler: Any) -> None:
    TriggerRegistry().add(EventTrigger("x"), handler)


@pytest.mark.parametrize("handler", [None, 5, "handle", take_nothing, take_two, take_by_name])
def test_whatever_does_not_take_an_event_is_refused(handler: Any) -> None:
    registry, trigger = TriggerRegistry(), EventTrigger("x")
    with pytest.raises(ConfigurationError, match="a function of the event"):
        registry.add(trigger, handler)
    assert (list(registry), trigger.handler) == ([], None)


@pytest.mark.parametrize("trigger", [None, "x", EventTrigger])
def test_only_triggers_are_registered(trigger: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"on\("):
        TriggerRegistry().add(trigger, handle)


def test_a_trigger_is_registered_once() -> None:
    registry, trigger = TriggerRegistry(), EventTrigger("x")
    registry.add(trigger, handle)
    with pytest.raises(ConfigurationError, match="has a handler already"):
        TriggerRegistry().add(trigger, handle)


@pytest.mark.parametrize(
    ("path", "other"),
    [("/x", "/x"), ("/{a}/y", "/{b}/y"), ("/a-{b}", "/a-{c}")],
)
def test_two_webhooks_of_one_method_and_path_conflict(path: str, other: str) -> None:
    registry = TriggerRegistry()
    registry.add(Webhook(path), handle)
    registry.add(Webhook(other, method="PUT"), handle)
    with pytest.raises(RouteConflict, match="registered already"):
        registry.add(Webhook(other), handle)


@pytest.mark.parametrize("order", [1, -1])
def test_webhooks_that_differ_in_method_or_path_do_not_conflict(order: int) -> None:
    registry, webhooks = (
        TriggerRegistry(),
        [("/a", "GET"), ("/a", "POST"), ("/a/", "POST"), ("/a/b", "POST"), ("/b", "POST")][::order],
    )
    for path, method in webhooks:
        registry.add(Webhook(path, method=method), handle)
    assert [trigger.source for trigger in registry] == [f"{method} {path}" for path, method in webhooks]


@pytest.mark.parametrize(
    "path",
    ["/run", "run/", "/health", "/runs", "/runs/{id}", "/runs/latest", "/sessions/{x}", "/docs", "/openapi.json"],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_webhook_that_shadows_a_built_in_route_conflicts(path: str, method: str) -> None:
    with pytest.raises(RouteConflict, match="shadows a built-in route"):
        TriggerRegistry().add(Webhook(path, method=method), handle)


@pytest.mark.parametrize("path", ["/", "/runner", "/run/it", "/{anything}", "/health/{x}/y", "/runs-{x}"])
def test_other_paths_are_free(path: str) -> None:
    TriggerRegistry().add(Webhook(path), handle)


def test_a_given_name_is_one_triggers() -> None:
    registry = TriggerRegistry()
    registry.add(EventTrigger("x", name="greet"), handle)
    with pytest.raises(ConfigurationError, match=r"name='greet' is <EventTrigger event\(x\)>'s already"):
        registry.add(Cron("@daily", name="greet"), handle)
    registry.add(Cron("@daily", name="report"), handle)


def yield_one(event: TriggerEvent) -> Iterator[str]:
    yield "hi"


async def yield_one_later(event: TriggerEvent) -> AsyncIterator[str]:
    yield "hi"


class Yielding:
    def __call__(self, event: TriggerEvent) -> Iterator[str]:
        yield "hi"


@pytest.mark.parametrize(
    "handler",
    [yield_one, yield_one_later, functools.partial(yield_one), Yielding()],
    ids=["function", "async function", "partial", "object"],
)
def test_a_handler_that_would_never_run_is_refused(handler: Any) -> None:
    """Its caller would get a 200, and the generator's name for a body."""
    with pytest.raises(ConfigurationError, match="has a yield and would never run"):
        Agent("offline").on(Webhook("/github"))(handler)
