"""Which key a trigger has over restarts and replicas, also where many have one source and one handler."""

from __future__ import annotations

import functools
import itertools
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest

from definable.agent.trigger import BaseTrigger, Cron, EventTrigger, Interval, OneShot, TriggerEvent, Webhook
from definable.agent.trigger.base import Handler
from definable.agent.trigger.identity import TriggerKeys, keys_of


def handle(event: TriggerEvent, greeting: str = "", *, user: str = "") -> None: ...


def other(event: TriggerEvent) -> None: ...


class Porter:
    def __init__(self, greeting: str) -> None:
        self.greeting = greeting
        self.made = object()

    def open(self, event: TriggerEvent) -> None: ...

    def __call__(self, event: TriggerEvent) -> None: ...


@dataclass
class User:
    name: str
    tags: frozenset[str]


def keys(*triggers: tuple[BaseTrigger, Handler]) -> TriggerKeys:
    for trigger, handler in triggers:
        trigger.handler = handler
    return keys_of([trigger for trigger, _ in triggers])


def of_handlers(handlers: Sequence[Handler]) -> Sequence[str]:
    """The keys of event triggers of one name, by their handlers' places."""
    found = keys(*[(EventTrigger("x"), handler) for handler in handlers])
    assert not found.alike
    return list(found.by_key)


@pytest.mark.parametrize(
    ("trigger", "key"),
    [
        (EventTrigger("x"), "event(x)"),
        (Cron("0 9 * * *"), "cron(0 9 * * *)@UTC"),
        (Interval(5), "interval(5s)"),
        (OneShot(delay=5), "oneshot(+5s)"),
        (Webhook("/x"), "POST /x"),
        (Cron("0 9 * * *", name="daily"), "daily"),
        (Interval(5, name="poll"), "poll"),
        (OneShot(delay=5, name="once"), "once"),
        (Webhook("/x", name="hook"), "hook"),
    ],
)
def test_a_trigger_alone_is_known_by_what_a_user_sees_whatever_its_handler_is_called(
    trigger: BaseTrigger, key: str
) -> None:
    assert list(keys((trigger, handle)).by_key) == [key]
    assert list(keys((trigger, other)).by_key) == [key]


def test_the_handlers_name_tells_two_of_a_source_apart() -> None:
    found = keys((EventTrigger("x"), handle), (EventTrigger("x"), other), (EventTrigger("y"), other))
    assert list(found.by_key) == ["event(x):handle", "event(x):other", "event(y)"]
    assert not found.alike


def test_the_module_tells_handlers_of_one_name_apart() -> None:
    def elsewhere(event: TriggerEvent) -> None: ...

    elsewhere.__qualname__, elsewhere.__module__ = "handle", "shop.orders"
    found = keys((EventTrigger("x"), handle), (EventTrigger("x"), elsewhere))
    assert list(found.by_key) == [f"event(x):{__name__}.handle", "event(x):shop.orders.handle"]


def around(value: Any, token: object = uuid4()) -> Handler:  # another token in each process
    def handler(event: TriggerEvent) -> None:
        _ = value, token

    return handler


def with_default(value: Any) -> Handler:
    def handler(event: TriggerEvent, value: Any = value, *, same: object = object()) -> None: ...

    return handler


MAKERS: dict[str, Callable[[Any], Handler]] = {
    "partial": lambda value: functools.partial(handle, greeting=value),
    "positional partial": lambda value: functools.partial(functools.partial(around, value), 1),
    "variable": around,
    "default": with_default,
    "object": Porter,
    "method": lambda value: Porter(value).open,
}


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize(
    "values",
    [
        ["Ann", "Eve"],
        [1, None],
        [("a", 1), ("a", 2)],
        [{"a": [1]}, {"a": [2]}],
        [User("Ann", frozenset({"a", "b"})), User("Eve", frozenset())],
        [handle, other],
    ],
    ids=["strings", "numbers", "tuples", "dicts", "objects", "functions"],
)
def test_handlers_made_in_a_loop_are_told_apart_by_what_they_were_made_with(
    maker: Callable[[Any], Handler], values: list[Any]
) -> None:
    forward = of_handlers([maker(value) for value in values])
    assert of_handlers([maker(value) for value in reversed(values)]) == [*reversed(forward)]


def test_keys_say_nothing_of_the_arguments() -> None:
    assert not any("secret" in key for key in of_handlers([around("secret-1"), around("secret-2")]))


def test_keys_are_the_same_in_every_process() -> None:
    program = (
        "import functools\nfrom definable.agent.trigger import Cron\n"
        "from definable.agent.trigger.identity import keys_of\n"
        "def handle(event, user): ...\n"
        "jobs = [Cron('@daily') for _ in range(3)]\n"
        "for job, user in zip(jobs, [{'b'}, {'a', 'c'}, 'Eve']): job.handler = functools.partial(handle, user=user)\n"
        "print(list(keys_of(jobs).by_key))"
    )

    def keys_with(seed: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout

    assert keys_with("1") == keys_with("2") != ""


def test_what_nothing_tells_apart_is_numbered_and_named() -> None:
    same = [EventTrigger("x") for _ in range(3)]
    found = keys(*[(trigger, handle) for trigger in same], (EventTrigger("y"), handle))
    assert list(found.by_key) == ["event(x):handle", "event(x):handle#2", "event(x):handle#3", "event(y)"]
    assert [list(group) for group in found.alike] == [same]
    objects = keys(*[(EventTrigger("x"), functools.partial(handle, object())) for _ in range(2)])
    assert len(objects.alike) == 1


def test_a_name_tells_apart_what_nothing_else_does() -> None:
    found = keys(
        (EventTrigger("x", name="a"), handle), (EventTrigger("x", name="b"), handle), (EventTrigger("x"), handle)
    )
    assert (list(found.by_key), list(found.alike)) == (["a", "b", "event(x)"], [])


def test_what_waits_for_a_trigger_finds_it_after_others_came_or_went() -> None:
    first, second = EventTrigger("x"), EventTrigger("x")
    pair = keys((first, handle), (second, other))
    assert pair.former["event(x)"] is first  # it was alone
    alone = keys((second, other))
    assert alone.former["event(x):other"] is second  # it was one of two
    assert "event(x):handle" not in alone.former


def test_what_an_earlier_version_of_the_library_published_finds_its_trigger() -> None:
    same = [EventTrigger("x"), EventTrigger("x")]
    job = Cron("@daily", timezone="Europe/Berlin")
    former = keys((job, handle), *[(trigger, handle) for trigger in same]).former
    assert former[f"event(x):{__name__}.handle"] is same[0]
    assert former[f"event(x):{__name__}.handle#2"] is same[1]
    assert former[f"cron(@daily):{__name__}.handle@Europe/Berlin"] is job


def test_no_two_triggers_have_one_key_whatever_they_are_called() -> None:
    class Named(EventTrigger):
        @property
        def key(self) -> str:
            return self.pattern

    for patterns in itertools.permutations(["x:handle#2", "x", "x", "x:handle"]):
        triggers = [Named(pattern) for pattern in patterns]
        found = keys(*[(trigger, handle) for trigger in triggers])
        assert list(found.by_key.values()) == triggers


class CountingTrigger(BaseTrigger):
    """Counts how often its key is asked for."""

    asked = 0

    @property
    def source(self) -> str:
        return "counting"

    @property
    def key(self) -> str:
        self.asked += 1
        return "one"


def test_thousands_of_triggers_with_one_handler_are_named_by_one_look_at_each() -> None:
    triggers = [CountingTrigger() for _ in range(3_000)]
    found = keys(*[(trigger, handle) for trigger in triggers])
    assert list(found.by_key) == ["one:handle", *(f"one:handle#{number}" for number in range(2, 3_001))]
    assert {trigger.asked for trigger in triggers} == {1}
