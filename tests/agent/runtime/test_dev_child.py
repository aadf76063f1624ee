"""The serving end of development mode by itself: what it takes over, and what its parent hears of it."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from multiprocessing.connection import Connection, Pipe

import anyio
import pytest

from definable.agent.runtime import ShutdownReport, WorkCount
from definable.agent.runtime.dev.child import ENVIRONMENT, FORCE, STOP, DevChild, is_child, receive
from definable.agent.runtime.settings import ServeSettings
from definable.agent.runtime.signals import STUCK_MARGIN
from definable.testing import VIRTUAL_BACKENDS, virtual_time

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform == "win32", reason="reloading needs POSIX")]

LIMIT = 10.0
"""Seconds that a test may hang."""

VIRTUAL = [f"{name}, virtual" for name in VIRTUAL_BACKENDS]

virtual = pytest.mark.parametrize("anyio_backend", VIRTUAL, indirect=True)

Make = Callable[..., tuple[DevChild, Connection]]


@pytest.fixture(params=VIRTUAL_BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Iterator[object]:
    """Real time, but where a test says `virtual`."""
    name, _, is_virtual = request.param.partition(", ")
    if not is_virtual:
        yield name
        return
    with virtual_time(name) as backend:
        yield backend


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes a child of this very process, and its parent's end of the channel."""
    with ExitStack() as stack:

        def make(listening: socket.socket | None = None, *, parent_binds: bool = True) -> tuple[DevChild, Connection]:
            ours, theirs = Pipe()
            stack.enter_context(ours)
            address = None if listening is None else listening.getsockname()
            left = [] if listening is None else [os.dup(listening.fileno())]
            for descriptor in left:
                os.set_inheritable(descriptor, True)
            ours.send((address, left, parent_binds))
            child = DevChild(theirs)
            stack.callback(child.close)
            return child, ours

        yield make


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def settings_of(port: int, **options: object) -> ServeSettings:
    return ServeSettings(host="127.0.0.1", port=port, **options)  # type: ignore[arg-type]


def test_it_is_claimed_once_and_its_own_children_do_not_find_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert DevChild.claim() is None
    ours, theirs = Pipe()
    descriptor = os.dup(theirs.fileno())
    os.set_inheritable(descriptor, True)
    with ours, theirs:
        for another in (os.getppid() - 1, os.getppid() + 1):  # its parent's parent, say
            monkeypatch.setenv(ENVIRONMENT, f"{another} {descriptor}")
            assert not is_child() and DevChild.claim() is None
        monkeypatch.setenv(ENVIRONMENT, f"{os.getppid()} {descriptor}")
        ours.send((None, [], True))
        assert is_child()
        child = DevChild.claim()
        assert child is not None
        assert DevChild.claim() is None
        assert not os.get_inheritable(descriptor)
        child.close()


async def test_its_parent_hears_how_it_goes(make: Make) -> None:
    child, parent = make()
    report = ShutdownReport(1.5, {"http": WorkCount(3, 2, 1, 4)}, True, ("stuck",))
    assert child.begin(settings_of(0, shutdown_timeout=7), serves_http=False) == []
    child.started()
    child.ended(report)
    with anyio.fail_after(LIMIT):
        assert await receive(parent) == ("begun", None, 7 + STUCK_MARGIN)
        assert await receive(parent) == "serving"
        assert await receive(parent) == report
        child.close()
        assert await receive(parent) is None


async def test_an_end_that_breaks_is_an_end(make: Make) -> None:
    child, parent = make()
    parent.send("never read")  # so that the close resets the connection
    child.close()
    with anyio.fail_after(LIMIT):
        assert await receive(parent) is None


def test_a_parent_that_is_gone_is_no_error(make: Make) -> None:
    child, parent = make()
    parent.close()
    child.started()


def test_what_it_inherits_it_serves_while_the_address_is_the_same(make: Make, listening: socket.socket) -> None:
    child, _ = make(listening)
    [inherited] = child.begin(settings_of(listening.getsockname()[1]), serves_http=True)
    assert inherited.getsockname() == listening.getsockname()
    assert not inherited.get_inheritable()
    child.close()
    assert inherited.fileno() == -1


def test_another_address_is_its_parents_to_bind_for_the_next_child(make: Make, listening: socket.socket) -> None:
    child, parent = make(listening)
    old = listening.getsockname()
    with pytest.raises(SystemExit) as ended:
        child.begin(settings_of(0), serves_http=True)
    assert ended.value.code == 0
    assert parent.recv() == ("begun", ("127.0.0.1", 0), 30 + STUCK_MARGIN)
    listening.close()
    with pytest.raises(ConnectionRefusedError), socket.create_connection(old):  # nobody has kept it
        pass


def test_another_address_once_more_is_its_own_to_bind(make: Make, listening: socket.socket) -> None:
    child, _ = make(listening, parent_binds=False)
    assert child.begin(settings_of(0), serves_http=True) == []


class Listener:
    """Takes the place of the runtime's HTTP service."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def stop_accepting(self) -> None:
        self.sock.close()


class Stops:
    """Takes the place of the runtime: when it is told to stop, and whether by force."""

    def __init__(self, http: Listener | None = None) -> None:
        self.heard: list[tuple[float, bool]] = []
        self.http = http

    def stop(self, *, force: bool = False) -> None:
        self.heard.append((anyio.current_time(), force))


@virtual
@pytest.mark.parametrize("has_sockets", [True, False])
async def test_a_stop_leaves_those_who_have_connected_50_ms_to_ask(
    make: Make, listening: socket.socket, has_sockets: bool
) -> None:
    child, parent = make(listening)
    runtime = Stops()
    sockets = child.begin(settings_of(listening.getsockname()[1]), serves_http=has_sockets)
    if has_sockets:
        [sock] = sockets
        runtime.http = Listener(sock)
    async with anyio.create_task_group() as group:
        group.start_soon(child.obey, runtime)
        await anyio.sleep(100)
        assert runtime.heard == []
        parent.send(STOP)
        await anyio.sleep(1)
        assert runtime.heard == [(pytest.approx(100.05 if has_sockets else 100), False)]
        assert not has_sockets or sock.fileno() == -1
        parent.send(FORCE)
        await anyio.sleep(1)
        assert runtime.heard[1:] == [(pytest.approx(101), True)]
        parent.close()


@virtual
async def test_a_parent_in_a_hurry_is_not_kept_waiting(make: Make, listening: socket.socket) -> None:
    child, parent = make(listening)
    child.begin(settings_of(listening.getsockname()[1]), serves_http=True)
    runtime = Stops()
    async with anyio.create_task_group() as group:
        group.start_soon(child.obey, runtime)
        parent.send(STOP)
        await anyio.sleep(0.01)
        assert runtime.heard == []
        parent.send(FORCE)
        await anyio.sleep(0.01)
        assert [force for _, force in runtime.heard] == [False, True]
        parent.close()


@virtual
@pytest.mark.parametrize("resets", [True, False])
async def test_a_child_whose_parent_is_gone_stops(make: Make, resets: bool) -> None:
    child, parent = make()
    if resets:
        child.started()  # is never read, so that the close resets the connection
    runtime = Stops()
    async with anyio.create_task_group() as group:
        group.start_soon(child.obey, runtime)
        await anyio.sleep(1)
        parent.close()
    assert runtime.heard == [(1, False)]


@virtual
async def test_both_orders_at_once_are_a_cut(make: Make) -> None:
    child, parent = make()
    runtime = Stops()
    parent.send(STOP)
    parent.send(FORCE)
    async with anyio.create_task_group() as group:
        group.start_soon(child.obey, runtime)
        await anyio.sleep(1)
        assert runtime.heard == [(0, False), (0, True)]
        parent.close()


def test_a_ctrl_c_comes_through_once_it_serves(make: Make) -> None:
    child, _ = make()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        child.started()
        assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
