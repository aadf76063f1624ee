"""The triggers of a served agent."""

from __future__ import annotations

import logging

import pytest

from definable.agent.runtime.triggers import RUNS_KEY, TriggerTable
from definable.agent.trigger import Cron, EventTrigger, TriggerEvent, Webhook
from definable.agent.trigger.registry import TriggerRegistry
from definable.concurrency.clock import LoopClock, use_clock
from definable.errors import ConfigurationError


def handle(event: TriggerEvent) -> None: ...


def other(event: TriggerEvent) -> None: ...


WEBHOOK, CRON, STAR, NAME = Webhook("/x"), Cron("@daily"), EventTrigger("user.*"), EventTrigger("user.signup")


@pytest.fixture(scope="module")
def table() -> TriggerTable:
    registry = TriggerRegistry()
    for trigger in (WEBHOOK, CRON, STAR, NAME):
        registry.add(trigger, handle)
    return TriggerTable(registry)


def test_triggers_are_found_by_kind(table: TriggerTable) -> None:
    assert tuple(table.webhooks) == (WEBHOOK,)
    assert tuple(table.crons) == (CRON,)
    assert tuple(table.events) == (STAR, NAME)


def test_a_triggers_key_finds_it(table: TriggerTable) -> None:
    for trigger in (WEBHOOK, CRON, STAR, NAME):
        assert table.by_key[table.key_of(trigger)] is trigger


def test_a_stranger_has_no_key(table: TriggerTable) -> None:
    with pytest.raises(ConfigurationError, match="not one of the triggers"):
        table.key_of(EventTrigger("user.*"))


def test_an_event_is_published_for_every_trigger_that_matches(table: TriggerTable) -> None:
    data = {"body": {"n": 1}, "source": "event(user.signup)", "timestamp": 7.0}
    with use_clock(LoopClock(7.0, lambda: 0.0)):
        assert list(table.route("user.signup", {"n": 1})) == [(table.key_of(STAR), data), (table.key_of(NAME), data)]
        assert [key for key, _ in table.route("user.login", None)] == [table.key_of(STAR)]


def test_no_match_is_a_debug_line(table: TriggerTable, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "definable")
    assert list(table.route("order", None)) == []
    assert "the event 'order' matches no trigger" in caplog.text


def test_runs_that_were_accepted_for_later_have_a_trigger_of_their_own(table: TriggerTable) -> None:
    trigger = table.by_key[RUNS_KEY]
    assert (trigger.source, table.key_of(trigger)) == ("POST /run", RUNS_KEY)
    assert trigger not in (*table.webhooks, *table.crons, *table.events)


@pytest.mark.anyio
async def test_an_accepted_run_is_made_as_its_caller_asked(table: TriggerTable) -> None:
    arguments = {"input": "hi", "session_id": "s", "metadata": {"k": 1}}
    handler = table.by_key[RUNS_KEY].handler
    assert handler is not None
    assert await handler(TriggerEvent(arguments)) == arguments
