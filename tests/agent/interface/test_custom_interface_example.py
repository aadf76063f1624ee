"""examples/custom_interface.py: a chat over TCP that drains like the rest."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

from definable.agent import Agent
from definable.agent.bus import SQLiteBus
from definable.agent.runtime.supervisor import InterfaceState
from definable.model import OfflineModel

pytestmark = pytest.mark.anyio

EXAMPLE = Path(__file__).parents[3] / "examples" / "custom_interface.py"


def line_chat() -> Any:
    spec = importlib.util.spec_from_file_location("custom_interface", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.LineChat(0)


async def connected(chat: Any) -> anyio.abc.SocketStream:
    while not chat.port:
        await anyio.lowlevel.checkpoint()
    return await anyio.connect_tcp("127.0.0.1", chat.port)


async def test_lines_are_answered_in_their_conversation() -> None:
    chat, model = line_chat(), OfflineModel()
    with anyio.fail_after(10):
        async with Agent(model).running(chat, enable_server=False) as runtime:
            async with await connected(chat) as ann, await connected(chat) as bob:
                await ann.send(b"one\ntwo\n")
                await bob.send(b"three\n")
                lines = BufferedByteReceiveStream(ann)
                assert [await lines.receive_until(b"\n", 100) for _ in range(2)] == [b"one", b"two"]
                assert await bob.receive() == b"three\n"
        assert runtime.report is not None and runtime.report.clean
        assert runtime.report.sources["lines"].completed == 3
    assert max(len(request.messages) for request in model.requests) == 3


async def test_a_line_accepted_before_the_stop_is_answered() -> None:
    chat = line_chat()
    with anyio.fail_after(10):
        async with Agent(OfflineModel(latency=0.3)).running(chat, enable_server=False) as runtime:
            ann = await connected(chat)
            await ann.send(b"one\n")
            while not runtime.tracker.active():
                await anyio.lowlevel.checkpoint()
        async with ann:
            assert await ann.receive() == b"one\n"
            with pytest.raises(anyio.EndOfStream):
                await ann.receive()


async def test_lines_that_a_durable_bus_keeps_are_answered(tmp_path: Path) -> None:
    chat = line_chat()
    agent = Agent(OfflineModel(latency=0.1), bus=SQLiteBus(tmp_path / "bus.db"))
    with anyio.fail_after(10):
        async with agent.running(chat, enable_server=False) as runtime, await connected(chat) as ann:
            await ann.send(b"one\ntwo\n")
            lines = BufferedByteReceiveStream(ann)
            assert [await lines.receive_until(b"\n", 100) for _ in range(2)] == [b"one", b"two"]
            assert runtime.supervisors[0].state is InterfaceState.RUNNING


def test_it_runs_as_a_script() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, str(EXAMPLE), str(port)], env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        for _ in range(200):
            try:
                connection = socket.create_connection(("127.0.0.1", port), timeout=0.1)
                break
            except OSError:
                assert process.poll() is None
                time.sleep(0.05)
        with connection:
            connection.settimeout(10)
            connection.sendall(b"hello\n")
            assert connection.recv(100) == b"hello\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
