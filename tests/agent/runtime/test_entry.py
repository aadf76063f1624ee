"""Which way `serve` goes: this process, a watching parent, or nowhere while the program is being loaded."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest

from definable.agent import Agent
from definable.agent.runtime import AgentRuntime, ShutdownReport, entry
from definable.agent.runtime.dev import child as dev_child
from definable.agent.runtime.dev import reload as dev_reload
from definable.agent.runtime.entry import ServeReached, loading
from definable.agent.runtime.settings import ServeSettings
from definable.agent.runtime.signals import SignalWatcher
from definable.agent.trigger import EventTrigger, TriggerEvent
from definable.errors import ConfigurationError
from definable.model import OfflineModel

HERE, PARENT = ShutdownReport(1.0), ShutdownReport(2.0)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[AgentRuntime]:
    """What was served in this process, were it not for this test."""
    runtimes: list[AgentRuntime] = []

    def serve_process(runtime: AgentRuntime, backend: str) -> ShutdownReport:
        runtimes.append(runtime)
        return HERE

    monkeypatch.setattr(entry, "serve_process", serve_process)
    monkeypatch.setattr(dev_reload, "serve_and_reload", lambda settings: PARENT)
    monkeypatch.setattr(entry, "ensure_visible", lambda: None)
    return runtimes


def test_an_agent_is_served_in_this_process(served: list[AgentRuntime], caplog: pytest.LogCaptureFixture) -> None:
    agent = Agent("offline")
    assert agent.serve(port=0, name="joe") is HERE
    assert [(runtime.agent, runtime.name, runtime.settings.port) for runtime in served] == [(agent, "joe", 0)]
    assert caplog.records == []


def test_in_development_mode_this_process_watches(served: list[AgentRuntime], caplog: pytest.LogCaptureFixture) -> None:
    assert Agent("offline").serve(dev=True) is PARENT
    assert served == []
    assert caplog.records == []


def test_where_nothing_can_be_reloaded_development_mode_serves_and_says_so(
    served: list[AgentRuntime], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(entry, "os", SimpleNamespace(name="nt"))
    assert Agent("offline").serve() is HERE
    assert caplog.records == []
    assert Agent("offline").serve(dev=True) is HERE
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "needs POSIX" in caplog.text


def test_the_child_of_a_watching_process_ends_well_behind_serve(
    served: list[AgentRuntime], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    child = SimpleNamespace(close=lambda: steps.append("closed"))
    monkeypatch.setattr(dev_child.DevChild, "claim", lambda: child)
    monkeypatch.setattr(entry, "serve_child", lambda runtime, backend, child: steps.append(f"served on {backend}"))
    with pytest.raises(SystemExit) as ended:
        Agent("offline").serve(dev=True, backend="trio")
    assert (ended.value.code, steps, served) == (0, ["served on trio", "closed"], [])


class Child:
    """What a child says to the process that watches it."""

    def __init__(self) -> None:
        self.said: list[object] = []

    def begin(self, settings: ServeSettings, *, serves_http: bool) -> list[socket.socket]:
        self.said.append(f"begun, serves HTTP: {serves_http}")
        return []

    def started(self, url: str | None) -> None:
        self.said.append(f"serves {url}")

    async def obey(self, runtime: AgentRuntime) -> None:
        runtime.stop()
        await anyio.sleep_forever()

    def ended(self, report: ShutdownReport) -> None:
        self.said.append(report)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_child_serves_until_it_is_told_to_stop_and_says_how_it_went(backend: Any) -> None:
    child, runtime = Child(), AgentRuntime(Agent("offline"), settings=ServeSettings(enable_server=False))
    entry.serve_child(runtime, backend, cast("dev_child.DevChild", child))
    assert child.said == ["begun, serves HTTP: False", "serves None", runtime.report]
    assert runtime.report is not None


@pytest.mark.parametrize("stuck", [(), ("app.work", "app.wait")])
def test_a_process_whose_threads_have_ended_ends_by_itself_and_another_is_warned_of(
    stuck: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    report, calls = ShutdownReport(stuck_threads=stuck), list[str]()
    monkeypatch.setattr(entry, "run_blocking", lambda main, *, instead, backend: report)
    monkeypatch.setattr(SignalWatcher, "disarm", lambda watcher: calls.append("disarmed"))
    assert entry.serve_process(AgentRuntime(Agent("offline")), "asyncio") is report
    assert calls == ["disarmed"]
    assert ("user code still runs in threads: app.work, app.wait" in caplog.text) is bool(stuck)
    assert len(caplog.records) == (1 if stuck else 0)


class Unclosable(OfflineModel):
    """Fails when the service ends."""

    async def aclose(self) -> None:
        raise RuntimeError("the connection is gone")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_program_whose_serve_failed_in_its_stop_is_not_ended_behind_its_back(
    backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[int] = []
    monkeypatch.setattr("os._exit", ends.append)
    monkeypatch.setattr(entry, "STUCK_MARGIN", 0.1)
    before, agent = set(threading.enumerate()), Agent(Unclosable())

    @agent.on(EventTrigger("stop"))
    async def stop(event: TriggerEvent) -> None:
        signal.raise_signal(signal.SIGTERM)

    agent.emit("stop")
    with pytest.raises(RuntimeError, match="the connection is gone"):
        agent.serve(enable_server=False, shutdown_timeout=0.1, backend=backend)
    for timer in set(threading.enumerate()) - before:
        timer.join(10)
    assert ends == []


def test_a_process_is_ended_hard_only_when_its_stop_is_stuck_well_beyond_the_grace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bounds: list[float | None] = []

    class Watcher(SignalWatcher):
        def __init__(self, stop: Callable[[bool], object], exit_after: float | None) -> None:
            bounds.append(exit_after)
            super().__init__(stop, exit_after)

    monkeypatch.setattr(entry, "SignalWatcher", Watcher)
    monkeypatch.setattr(entry, "run_blocking", lambda main, *, instead, backend: HERE)
    entry.serve_process(AgentRuntime(Agent("offline"), settings=ServeSettings(shutdown_timeout=7)), "asyncio")
    [bound] = bounds
    assert bound is not None and 10 <= bound <= 15


@pytest.mark.parametrize(("options", "says"), [({"backend": "curio"}, "backend='curio'"), ({"port": -1}, "port=-1")])
def test_a_wrong_option_is_named_before_anything_is_served(
    served: list[AgentRuntime], options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says):
        Agent("offline").serve(**options)
    assert served == []


def test_a_program_that_is_being_loaded_serves_nothing(served: list[AgentRuntime]) -> None:
    agent, token = Agent("offline"), loading.set(True)
    try:
        with pytest.raises(ServeReached) as reached:
            agent.serve(backend="trio", port=5)
    finally:
        loading.reset(token)
    assert (reached.value.agent, reached.value.backend, reached.value.options) == (agent, "trio", {"port": 5})
    assert list(reached.value.interfaces) == []
    assert served == []


@pytest.mark.anyio
async def test_a_program_that_is_being_loaded_serves_nothing_in_a_loop_of_its_own_either(
    anyio_backend_name: str,
) -> None:
    agent, token = Agent("offline"), loading.set(True)
    try:
        with pytest.raises(ServeReached) as reached:
            await agent.aserve(enable_server=False)
    finally:
        loading.reset(token)
    assert (reached.value.agent, reached.value.backend) == (agent, anyio_backend_name)
