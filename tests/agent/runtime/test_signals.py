"""Whose signals they are: the service's own, its host's, and the host's again afterwards."""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import anyio
import pytest
from anyio.abc import TaskStatus
from anyio.lowlevel import checkpoint

from definable.agent import Agent
from definable.agent.runtime.signals import REPEATED_HANGUP, STOP_SIGNALS, SignalWatcher
from definable.agent.trigger import EventTrigger, TriggerEvent


@pytest.fixture(autouse=True)
def hangups_are_nobodys() -> Iterator[None]:
    """Also where the tests run under `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in STOP_SIGNALS]


@pytest.mark.anyio
async def test_under_a_foreign_server_signals_are_the_servers() -> None:
    before = handlers()
    async with served_agent().asgi().lifespan():
        assert handlers() == before


@pytest.mark.anyio
async def test_in_a_context_signals_are_the_programs_unless_it_says_otherwise() -> None:
    before = handlers()
    async with served_agent().running(enable_server=False):
        assert handlers() == before
    async with served_agent().running(enable_server=False, handle_signals=True):
        assert all(handler not in before for handler in handlers())
    assert handlers() == before


@pytest.mark.anyio
async def test_a_served_agent_stops_at_a_signal_and_gives_the_handlers_back() -> None:
    agent, before = served_agent(), handlers()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            await group.start(lambda *, task_status: agent.aserve(enable_server=False, task_status=task_status))
            signal.raise_signal(signal.SIGINT)
    assert handlers() == before


@pytest.mark.anyio
async def test_one_signal_stops_all_agents_that_one_program_serves() -> None:
    before = handlers()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            for agent in (served_agent(), served_agent(), served_agent()):
                await group.start(partial(served_alone, agent))
            signal.raise_signal(signal.SIGTERM)
    assert handlers() == before


@pytest.mark.anyio
@pytest.mark.parametrize("first", [0, 1, 2])
async def test_an_agent_that_ends_leaves_the_others_their_signals(first: int) -> None:
    before = handlers()
    agents = [served_agent(), served_agent(), served_agent()]
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            for agent in agents:
                await group.start(partial(served_alone, agent))
            ending = agents[first].runtime
            assert ending is not None
            ending.stop()
            while agents[first].runtime is not None:
                await checkpoint()
            assert all(handler not in before for handler in handlers())
            signal.raise_signal(signal.SIGTERM)
    assert handlers() == before


def served_agent() -> Agent:
    """An agent with something to serve."""
    agent = Agent("offline")

    @agent.on(EventTrigger("x"))
    async def handle(event: TriggerEvent) -> None: ...

    return agent


async def served_alone(agent: Agent, *, task_status: TaskStatus[str | None]) -> None:
    await agent.aserve(enable_server=False, task_status=task_status)


def test_the_first_signal_drains_and_the_second_cuts_off() -> None:
    stops: list[object] = []
    watcher = SignalWatcher(stops.append, exit_after=None)
    with watcher:
        assert (watcher.exit_status, stops) == (0, [])
        signal.raise_signal(signal.SIGINT)
        assert (watcher.exit_status, stops) == (0, [False])
        signal.raise_signal(signal.SIGTERM)
        assert (watcher.exit_status, stops) == (128 + signal.SIGTERM, [False, True])
    assert watcher.received == [signal.SIGINT, signal.SIGTERM]


def test_a_hangup_drains_and_a_later_one_cuts_off(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    stops: list[object] = []
    with SignalWatcher(stops.append, exit_after=None) as watcher:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)  # the shell's and the kernel's, of one terminal that closes
        assert (watcher.exit_status, stops) == (0, [False])
        now += 1
        signal.raise_signal(signal.SIGHUP)
        assert (watcher.exit_status, stops) == (129, [False, True])


@pytest.mark.parametrize("host", [signal.SIG_IGN, lambda number, frame: None], ids=["nohup", "a handler"])
def test_a_hangup_that_somebody_has_decided_on_is_left_alone(host: signal.Handlers) -> None:
    stops: list[object] = []
    signal.signal(signal.SIGHUP, host)
    with SignalWatcher(stops.append, exit_after=None):
        assert signal.getsignal(signal.SIGHUP) is host
        signal.raise_signal(signal.SIGHUP)
    assert (stops, signal.getsignal(signal.SIGHUP)) == ([], host)


SERVES = """
import sys

import anyio

from definable.agent import Agent
from definable.agent.trigger import Webhook

agent = Agent("offline")


@agent.on(Webhook("/hold"))
async def held(event):
    print("held", flush=True)
    await anyio.sleep(0.3 if sys.argv[2] == "drained" else 60)
    return None


report = agent.serve(host="127.0.0.1", port=int(sys.argv[3]), backend=sys.argv[1])
print("report", report.sources["http"].completed, report.clean, flush=True)
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("how", ["drained", "forced", "nohup"])
def test_a_served_process_at_a_hangup(tmp_path: Path, backend: str, how: str) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    (tmp_path / "program.py").write_text(SERVES)
    command = [sys.executable, str(tmp_path / "program.py"), backend, how, str(port)]
    if how == "nohup":
        command = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *command]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            client = connected(port)
            client.sendall(b"POST /hold HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
            assert process.stdout is not None and process.stdout.readline() == "held\n"
            process.send_signal(signal.SIGHUP)
            if how == "nohup":
                time.sleep(REPEATED_HANGUP)  # of a process there is no other sign that nothing happens
                assert process.poll() is None
                process.send_signal(signal.SIGTERM)
            if how != "drained":
                time.sleep(2 * REPEATED_HANGUP)
                process.send_signal(signal.SIGHUP if how == "forced" else signal.SIGTERM)
            answer = client.recv(65536)
            status = process.wait(20)
            said = process.stdout.read()
        finally:
            process.kill()
            client.close()
    if how == "drained":
        assert (status, said) == (0, "report 1 True\n")
        assert answer.startswith(b"HTTP/1.1 200")
    else:
        assert (status, said) == (129 if how == "forced" else 143, "")
        assert answer.startswith(b"HTTP/1.1 503")


def connected(port: int) -> socket.socket:
    """A connection to a service that may not listen yet."""
    end = time.monotonic() + 20
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), 20)
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


def test_a_third_signal_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[int] = []
    monkeypatch.setattr("os._exit", ends.append)
    with SignalWatcher(lambda force: None, exit_after=None):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert ends == []
        signal.raise_signal(signal.SIGTERM)
        assert ends == [128 + signal.SIGTERM]


def test_a_stop_that_is_stuck_ends_the_process(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ended, statuses = threading.Event(), list[int]()

    def end(status: int) -> None:
        statuses.append(status)
        ended.set()

    monkeypatch.setattr("os._exit", end)
    with SignalWatcher(lambda force: None, exit_after=0.01) as watcher:
        signal.raise_signal(signal.SIGTERM)
        assert ended.wait(10)
    watcher.disarm()
    assert statuses == [128 + signal.SIGTERM]
    assert "exiting now" in caplog.text


def test_a_process_that_ends_by_itself_is_left_to_it() -> None:
    before = set(threading.enumerate())
    with SignalWatcher(lambda force: None, exit_after=3600) as watcher:
        watcher.disarm()
        signal.raise_signal(signal.SIGTERM)
        [timer] = set(threading.enumerate()) - before
        assert timer.daemon  # it holds up no end of the process
        watcher.disarm()
    timer.join(10)
    assert not timer.is_alive()


def test_a_signal_is_a_stop_also_where_no_thread_can_be_started() -> None:
    stops: list[object] = []
    with SignalWatcher(stops.append, exit_after=3600) as watcher:
        before = threading.stack_size(1 << 46)  # more than there is
        try:
            with pytest.raises(RuntimeError, match="can't start new thread"):
                threading.Thread().start()
            signal.raise_signal(signal.SIGTERM)
        finally:
            threading.stack_size(before)
        watcher.disarm()
    assert stops == [False]


def test_a_stop_may_take_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    crashes: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", crashes.append)
    before = set(threading.enumerate())
    with SignalWatcher(lambda force: None, exit_after=math.inf) as watcher:
        signal.raise_signal(signal.SIGTERM)
        watcher.disarm()
        for timer in set(threading.enumerate()) - before:
            timer.join(10)
    assert crashes == []


FORKS = """
import os, signal, sys
from definable.agent.runtime.signals import SignalWatcher

number, host = int(sys.argv[1]), sys.argv[2]
if host == "answers":
    signal.signal(number, lambda number, frame: os._exit(7))
with SignalWatcher(print, exit_after=None), SignalWatcher(print, exit_after=None):
    child = os.fork()
    if child == 0:
        if host == "serves":
            with SignalWatcher(lambda force: os._exit(8), exit_after=None):
                signal.raise_signal(number)
        signal.raise_signal(number)
        os._exit(9)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX")
@pytest.mark.parametrize(("host", "status"), [("lets it be", -signal.SIGTERM), ("answers", 7), ("serves", 8)])
def test_a_fork_of_a_served_process_does_at_a_signal_what_its_host_would(host: str, status: int) -> None:
    command = [sys.executable, "-c", FORKS, str(int(signal.SIGTERM)), host]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    assert ended.stdout.split() == [str(status)]


def test_in_another_thread_nothing_is_watched() -> None:
    seen: list[object] = []

    def watch() -> None:
        with SignalWatcher(lambda force: None, exit_after=None):
            seen.extend(handlers())

    before = handlers()
    thread = threading.Thread(target=watch)
    thread.start()
    thread.join()
    assert seen == before
