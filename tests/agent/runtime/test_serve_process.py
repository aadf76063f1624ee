"""`agent.serve()` as its users run it: a process, signals, exit statuses. Loopback only."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Generator
from pathlib import Path

import httpx2
import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

SCRIPT = """
import sys, time
import anyio
from definable.agent import Agent
from definable.agent.trigger import Cron, EventTrigger, Webhook

agent = Agent("offline")

@agent.on(Webhook("/quick"))
async def quick(event):
    return "hi"

@agent.on(Webhook("/slow"))
async def slow(event):
    print("slow begins", flush=True)
    await anyio.sleep(0.5)
    return "done"

@agent.on(Webhook("/hang"))
async def hang(event):
    print("hang begins", flush=True)
    await anyio.sleep_forever()

@agent.on(Webhook("/block"))
async def block(event):
    print("block begins", flush=True)
    while True:
        time.sleep(0.05)

@agent.on(Webhook("/thread"))
def thread(event):
    print("thread begins", flush=True)
    time.sleep(60)

@agent.on(EventTrigger("slow"))
async def on_slow(event):
    print("event begins", flush=True)
    await anyio.sleep(0.3)
    print("event ends", flush=True)

@agent.on(Cron("* * * * * *"))
async def every_second(event):
    print("cron fired", flush=True)

@agent.on(Webhook("/emit"))
async def emit(event):
    for _ in range(3):
        agent.emit("slow")

report = agent.serve(host="127.0.0.1", port=0, backend=sys.argv[1], shutdown_timeout=float(sys.argv[2]))
print("report", report, flush=True)
"""


class Served:
    """A script that serves, and what it prints."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = self.wait_for(r"http +(http://\S+)")

    def wait_for(self, pattern: str) -> str:
        """Wait for a line, and return the first group of the match or all of it."""

        def found() -> "re.Match[str] | None":
            return next((m for line in self.lines if (m := re.search(pattern, line))), None)

        with self._changed:
            assert self._changed.wait_for(lambda: found() or self.process.poll() is not None, timeout=20), self.lines
            match = found()
        assert match is not None, self.lines
        return match[1] if match.groups() else match[0]

    def send_signal(self, number: int) -> None:
        self.process.send_signal(number)

    def exit_status(self) -> int:
        status = self.process.wait(timeout=20)
        self._reader.join(timeout=5)
        return status

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.lines.append(line.rstrip())
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()


Serve = Callable[..., Served]


@pytest.fixture(params=["asyncio", "trio"])
def serve(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Serve, None, None]:
    script = tmp_path / "app.py"
    script.write_text(textwrap.dedent(SCRIPT))
    started: list[Served] = []

    def start(shutdown_timeout: float = 10) -> Served:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", str(script), request.param, str(shutdown_timeout)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        started.append(Served(process))
        return started[-1]

    yield start
    for served in started:
        served.process.kill()
        served.process.wait()
        assert served.process.stdout is not None
        served.process.stdout.close()


class Call(threading.Thread):
    """A request that is made while the test goes on."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self.status: int | None = None
        self.body = ""
        self.start()

    def run(self) -> None:
        try:
            response = httpx2.post(self._url, timeout=20)
        except httpx2.HTTPError as error:
            self.body = repr(error)
        else:
            self.status, self.body = response.status_code, response.text

    def result(self) -> tuple[int | None, str]:
        self.join(timeout=20)
        return self.status, self.body


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_finishes_what_was_accepted(serve: Serve, number: int) -> None:
    served = serve()
    served.wait_for("cron fired")
    slow = Call(f"{served.url}/slow")
    served.wait_for("slow begins")
    served.send_signal(number)
    status, body = slow.result()
    assert status == 200, body
    assert '"content":"done"' in body
    assert served.exit_status() == 0
    assert re.search(
        r"report stopped cleanly .*http: 1 completed; event: 0 completed; cron: \d+ completed", served.lines[-1]
    )


def test_queued_events_are_finished(serve: Serve) -> None:
    served = serve()
    assert httpx2.post(f"{served.url}/emit").status_code == 200
    served.wait_for("event begins")
    served.send_signal(signal.SIGTERM)
    assert served.exit_status() == 0
    assert served.lines.count("event ends") == 3
    assert "event: 3 completed" in served.lines[-1]


def test_past_the_grace_a_caller_gets_an_honest_503_and_the_report_counts_it(serve: Serve) -> None:
    served = serve(shutdown_timeout=0.2)
    hang = Call(f"{served.url}/hang")
    served.wait_for("hang begins")
    served.send_signal(signal.SIGTERM)
    status, body = hang.result()
    assert status == 503, body
    assert served.exit_status() == 0
    assert "http: 0 completed, 1 cancelled" in served.lines[-1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_cancels_at_once(serve: Serve, number: int) -> None:
    served = serve()
    hang = Call(f"{served.url}/hang")
    served.wait_for("hang begins")
    served.send_signal(number)
    served.wait_for("stopping")
    served.send_signal(number)
    assert hang.result()[0] == 503
    assert served.exit_status() == 128 + number


def test_a_third_signal_ends_a_process_whose_event_loop_is_blocked(serve: Serve) -> None:
    served = serve()
    Call(f"{served.url}/block")
    served.wait_for("block begins")
    for _ in range(3):
        served.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):  # two signals sent at once would arrive as one
            served.process.wait(timeout=0.3)
    assert served.exit_status() == 128 + signal.SIGTERM


def test_a_thread_that_does_not_end_cannot_hold_up_the_process(serve: Serve) -> None:
    served = serve(shutdown_timeout=0.2)
    thread = Call(f"{served.url}/thread")
    served.wait_for("thread begins")
    served.send_signal(signal.SIGTERM)
    assert thread.result()[0] == 503
    assert served.exit_status() in (0, 128 + signal.SIGTERM)
    assert any("still in a thread: __main__.thread" in line for line in served.lines), served.lines


THREADS = """
import asyncio, sys, threading, time
from definable.agent import Agent
from definable.agent.runtime import entry
from definable.agent.trigger import Webhook

entry.STUCK_MARGIN = 0.3  # no option: a test does not wait for five seconds
agent = Agent("offline")

def never_end():
    while True:
        time.sleep(0.05)

@agent.on(Webhook("/start"))
async def start(event):
    if sys.argv[2] == "executor":
        asyncio.get_running_loop().run_in_executor(None, never_end)
    else:
        threading.Thread(target=never_end, name="forgotten").start()

if sys.argv[2] == "programs own":
    threading.Thread(target=time.sleep, args=(2,), name="own").start()
agent.serve(host="127.0.0.1", port=0, backend=sys.argv[1], shutdown_timeout=1)
if sys.argv[2] == "programs own":
    time.sleep(1)
print("the program's own end", flush=True)
"""


@pytest.mark.parametrize(
    ("backend", "started"),
    [("asyncio", "thread"), ("asyncio", "executor"), ("trio", "thread"), ("asyncio", "programs own")],
)
def test_a_thread_that_a_handler_has_left_running_cannot_hold_up_the_exit(
    backend: str, started: str, tmp_path: Path
) -> None:
    script = tmp_path / "app.py"
    script.write_text(THREADS)
    with subprocess.Popen(
        [sys.executable, str(script), backend, started], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        served = Served(process)
        if started != "programs own":
            assert httpx2.post(f"{served.url}/start").status_code == 200
        served.send_signal(signal.SIGTERM)
        assert served.exit_status() == (0 if started == "programs own" else 128 + signal.SIGTERM)
    lines = "\n".join(served.lines)
    assert ("the program's own end" in lines) == (started != "executor"), lines
    if started == "programs own":
        assert "exiting now" not in lines
    else:
        assert re.search(r"thread '(forgotten|asyncio_0|uvloop_0)'.*", lines), lines


EARLY = """
import signal, sys
from importlib.abc import MetaPathFinder
from definable.agent import Agent

class Interrupts(MetaPathFinder):
    "Sends a signal when the event loop's backend is imported."
    def find_spec(self, name, path=None, target=None):
        if name == f"anyio._backends._{sys.argv[1]}":
            sys.meta_path.remove(self)
            signal.raise_signal(int(sys.argv[2]))

sys.meta_path.insert(0, Interrupts())
print("report", Agent("offline").serve(host="127.0.0.1", port=0, backend=sys.argv[1]))
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_comes_while_the_event_loop_starts_is_a_stop(backend: str, number: int) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", EARLY, backend, str(int(number))],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("report stopped cleanly in ")


def test_a_busy_port_leaves_nothing_running_and_says_so_in_one_line(serve: Serve, tmp_path: Path) -> None:
    served = serve()
    port = served.url.rsplit(":", 1)[1]
    code = f"from definable.agent import Agent; Agent('offline').serve(host='127.0.0.1', port={port})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    assert f"127.0.0.1:{port}" in done.stderr.splitlines()[-1]
    assert "ExceptionGroup" not in done.stderr
