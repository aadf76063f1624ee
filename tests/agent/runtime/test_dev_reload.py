"""`serve(dev=True)` and `definable serve --dev` as developers use them: real processes, saves and signals."""

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path

import httpx2
import psutil
import pytest
from watched_process import BOUND, WatchedProcess

pty = pytest.importorskip("pty", reason="reloading needs POSIX")

SAVES = int(os.environ.get("DEFINABLE_TEST_SAVES", "5"))
"""How many saves in a row the long test makes."""

APP = """
import sys
from pathlib import Path
import anyio
from definable.agent import Agent
from definable.agent.trigger import Webhook

VERSION = 0
agent = Agent("offline", name="dev")

@agent.on(Webhook("/version"))
async def version(event):
    return f"version {VERSION}"

@agent.on(Webhook("/hang"))
async def hang(event):
    print("hang begins", flush=True)
    await anyio.sleep_forever()

@agent.on(Webhook("/wait"))
async def wait(event):
    print("wait begins", flush=True)
    while not Path("go").exists():
        await anyio.sleep(0.01)
    return f"waited in {VERSION}"

if __name__ == "__main__":
    print("starting", flush=True)
    report = agent.serve(host="127.0.0.1", port=0, backend=sys.argv[1], dev=True, shutdown_timeout=10)
    print("report", report, flush=True)
"""


class DevServer:
    """A program in development mode."""

    def __init__(self, process: WatchedProcess, source: Path) -> None:
        self.process = process
        self.source = source
        self.url = process.wait_for(r"http +(http://\S+)")
        process.wait_for("try ")

    def save(self, version: int) -> None:
        """Save the program anew, as an editor does."""
        lines = self.source.read_text().splitlines()
        self.write("\n".join(f"VERSION = {version}" if line.startswith("VERSION") else line for line in lines))

    def write(self, text: str, saved_at: float | None = None) -> None:
        """Replace the source at one stroke; in Unix seconds, when."""
        draft = self.source.with_suffix(".draft")
        draft.write_text(text)
        if saved_at is not None:
            os.utime(draft, (saved_at, saved_at))
        draft.replace(self.source)

    def version(self) -> str:
        """What the program answers; it may take until the next child serves."""
        return httpx2.post(f"{self.url}/version", timeout=BOUND).json()["content"]

    def restarted(self) -> None:
        """Wait until a save has come into effect."""
        self.process.wait_for("restarted in")

    def child(self) -> psutil.Process:
        """The one child."""
        (child,) = self.process.children()
        return child


Start = Callable[..., DevServer]


@pytest.fixture
def start(tmp_path: Path) -> Generator[Start, None, None]:
    with ExitStack() as stack:
        processes: list[WatchedProcess] = []

        def start(*arguments: str, app: str = APP) -> DevServer:
            source = tmp_path / "app.py"
            source.write_text(app)
            processes.append(stack.enter_context(WatchedProcess(arguments or ["app.py", "asyncio"], tmp_path)))
            return DevServer(processes[-1], source)

        yield start
    assert [process.text for process in processes if "ResourceWarning" in process.text] == []  # nothing is left open


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_save_restarts_and_one_ctrl_c_ends_both(start: Start, backend: str) -> None:
    server = start("app.py", backend)
    assert server.version() == "version 0"
    first = server.child()
    server.save(1)
    server.restarted()
    assert server.version() == "version 1"
    assert not first.is_running()
    server.process.process.send_signal(signal.SIGINT)
    assert server.process.exit_status() == 0
    assert server.process.children() == []
    assert server.process.lines[-1].startswith("report stopped cleanly in ")
    assert "http: 1 completed" in server.process.lines[-1]
    assert server.process.text.count("report stopped") == 1


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "app", "asyncio"],
        ["-m", "definable", "serve", "app:agent", "--dev", "--host", "127.0.0.1", "--port", "0"],
        ["-m", "definable", "serve", "app.py", "--dev", "--host", "127.0.0.1", "--port", "0", "--backend", "trio"],
    ],
)
def test_every_way_to_start_reloads(start: Start, command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a save of the same size within a second, which bytecode that Python keeps would hide."""
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    server = start(*command)
    saved_at = server.source.stat().st_mtime
    server.write(server.source.read_text().replace("VERSION = 0", "VERSION = 1"), saved_at)
    server.restarted()
    assert server.version() == "version 1"
    server.process.process.send_signal(signal.SIGTERM)
    assert server.process.exit_status() == 0
    assert server.process.children() == []


class Caller(threading.Thread):
    """Asks one server again and again, each time over a connection of its own."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.answers: list[str] = []
        self.failures: list[str] = []
        self._url = url
        self._done = threading.Event()

    def run(self) -> None:
        while not self._done.is_set():
            try:
                response = httpx2.post(self._url, timeout=BOUND, headers={"Connection": "close"})
                self.answers.append(response.raise_for_status().json()["content"])
            except httpx2.HTTPError as error:
                self.failures.append(repr(error))

    def give_up(self) -> None:
        self._done.set()

    def stop(self) -> None:
        self.give_up()
        self.join(timeout=BOUND)


@pytest.mark.timeout(60 + 6 * SAVES)
def test_saves_in_a_row_leave_one_healthy_child_and_lose_no_request(start: Start) -> None:
    server = start()
    caller = Caller(f"{server.url}/version")
    caller.start()
    parent = psutil.Process(server.process.process.pid)
    descriptors = parent.num_fds()
    for version in range(1, SAVES + 1):
        server.save(version)
        server.restarted()
        server.child()
    assert server.version() == f"version {SAVES}"
    assert parent.num_fds() <= descriptors
    caller.stop()
    assert caller.failures == []
    assert len(caller.answers) > SAVES
    assert caller.answers == sorted(caller.answers, key=lambda answer: int(answer.split()[1]))
    server.process.process.send_signal(signal.SIGINT)
    assert server.process.exit_status() == 0
    assert server.process.children() == []


def test_a_syntax_error_is_shown_once_and_the_service_goes_on_until_it_is_mended(start: Start) -> None:
    server = start()
    child = server.child()
    server.write(f"{APP}\noops = (\n")
    server.process.wait_for("this does not compile: waiting for the next save")
    server.process.wait_for("SyntaxError: '\\(' was never closed")
    assert server.version() == "version 0"
    assert server.child() == child
    server.save(2)  # of the broken program
    server.process.wait_for("waiting for the next save")
    server.write(APP.replace("VERSION = 0", "VERSION = 3"))
    server.restarted()
    assert server.version() == "version 3"
    assert server.process.text.count("SyntaxError") == 2


def test_a_program_that_fails_at_its_start_is_shown_and_waited_out(start: Start) -> None:
    server = start()
    server.write(APP.replace("VERSION = 0", "VERSION = 1 / 0"))
    server.process.wait_for("ZeroDivisionError")
    server.process.wait_for(r"has ended \(exit status 1\): waiting for the next save")
    assert server.process.children() == []
    server.save(1)
    server.restarted()
    assert server.version() == "version 1"
    server.write(APP.replace("VERSION = 0", "VERSION = 1 / 0"))
    server.process.wait_for("waiting for the next save")
    server.process.process.send_signal(signal.SIGINT)
    assert server.process.exit_status() == 0


def test_another_port_in_the_source_is_bound_and_the_old_one_given_up(start: Start) -> None:
    server = start()
    old = server.url
    server.write(APP.replace("127.0.0.1", "localhost"))
    server.url = server.process.wait_for(r"http +(http://\S+)")
    server.restarted()
    assert server.version() == "version 0"
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{old}/health", timeout=BOUND)


def test_a_request_that_hangs_does_not_hold_up_the_restart_for_long(start: Start) -> None:
    server = start()
    caller = Caller(f"{server.url}/hang")
    caller.start()
    server.process.wait_for("hang begins")
    server.save(1)
    server.restarted()
    assert server.version() == "version 1"
    caller.give_up()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_is_under_way_at_the_first_signal_is_finished(start: Start, tmp_path: Path, number: int) -> None:
    server = start()
    caller = Caller(f"{server.url}/wait")
    caller.start()
    server.process.wait_for("wait begins")
    caller.give_up()
    server.process.process.send_signal(number)
    server.process.wait_for("stopping")
    (tmp_path / "go").touch()
    assert server.process.exit_status() == 0
    caller.stop()
    assert (caller.answers, caller.failures) == (["waited in 0"], [])


def test_what_is_under_way_at_a_save_is_finished_by_the_child_that_began_it(start: Start, tmp_path: Path) -> None:
    server = start()
    caller = Caller(f"{server.url}/wait")
    caller.start()
    server.process.wait_for("wait begins")
    caller.give_up()
    server.save(1)
    server.process.wait_for("stopping")
    (tmp_path / "go").touch()
    server.restarted()
    caller.stop()
    assert (caller.answers, caller.failures) == (["waited in 0"], [])
    assert server.version() == "version 1"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_cuts_off_what_is_under_way(start: Start, number: int) -> None:
    server = start()
    caller = Caller(f"{server.url}/hang")
    caller.start()
    server.process.wait_for("hang begins")
    caller.give_up()
    server.process.process.send_signal(number)
    server.process.wait_for("stopping")
    server.process.process.send_signal(number)
    assert server.process.exit_status() == 128 + number
    assert server.process.children() == []


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG")
@pytest.mark.parametrize("moment", ["while it starts", "while it serves"])
def test_no_child_outlives_a_parent_that_is_killed(start: Start, moment: str) -> None:
    server = start()
    if moment == "while it starts":
        server.write(f"import time\nprint('asleep', flush=True)\ntime.sleep({2 * BOUND})\n{APP}")
        server.process.wait_for("asleep")
    children = [server.child()]
    server.process.process.kill()
    _, alive = psutil.wait_procs(server.process.children() or children, timeout=BOUND)
    assert alive == []


def test_a_busy_port_ends_it_with_one_line(start: Start, tmp_path: Path) -> None:
    server = start()
    port = server.url.rsplit(":", 1)[1]
    (tmp_path / "other.py").write_text(APP.replace("port=0", f"port={port}"))
    done = subprocess.run(
        [sys.executable, "other.py", "asyncio"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=False,
    )
    assert done.returncode == 1
    assert f"127.0.0.1:{port}: the port is in use" in done.stderr.splitlines()[-1]


def test_a_child_that_gets_a_ctrl_c_of_its_own_drains_and_is_waited_for(start: Start) -> None:
    server = start()
    server.child().send_signal(signal.SIGINT)
    server.process.wait_for("the program has ended")
    server.save(1)
    server.restarted()
    assert server.version() == "version 1"


def test_files_that_are_no_source_restart_nothing(start: Start, tmp_path: Path) -> None:
    server = start()
    child = server.child()
    for name in [".venv/lib/site.py", "__pycache__/app.py", "notes.txt", "node_modules/a/b.py"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x = 1\n")
    (tmp_path / "new").mkdir()
    server.save(1)
    server.restarted()
    assert server.process.text.count("changed: restarting") == 1
    assert "app.py changed: restarting" in server.process.text
    assert not child.is_running()


def test_saves_that_come_faster_than_restarts_end_with_the_last(start: Start) -> None:
    server = start()
    for version in range(1, 6):
        server.save(version)
        server.process.wait_for("changed: restarting" if version == 1 else "starting|restarting")
    answer = ""
    while answer != "version 5":
        answer = server.version()
    server.child()


def test_a_child_whose_event_loop_is_blocked_is_replaced_all_the_same(start: Start) -> None:
    server = start(app=APP.replace("await anyio.sleep_forever()", "import time; time.sleep(60)"))
    caller = Caller(f"{server.url}/hang")
    caller.start()
    server.process.wait_for("hang begins")
    caller.give_up()
    server.save(1)
    server.restarted()
    assert server.version() == "version 1"
    server.child()


def test_a_service_without_http_reloads_too(start: Start, tmp_path: Path) -> None:
    source = tmp_path / "app.py"
    source.write_text(APP.replace("dev=True", "dev=True, enable_server=False"))
    with WatchedProcess(["app.py", "trio"], tmp_path) as process:
        process.wait_for("auth ")
        source.write_text(source.read_text() + "\n")
        process.wait_for("restarted in")
        process.process.send_signal(signal.SIGINT)
        assert process.exit_status() == 0


def test_a_program_that_no_longer_asks_for_it_is_served_on(start: Start) -> None:
    server = start()
    server.write(APP.replace("dev=True", "dev=False").replace("VERSION = 0", "VERSION = 1"))
    server.restarted()
    assert server.version() == "version 1"
    assert httpx2.get(f"{server.url}/docs", timeout=BOUND).status_code == 404


def test_a_ctrl_c_at_the_terminal_reaches_both_and_counts_once(start: Start, tmp_path: Path) -> None:

    (tmp_path / "app.py").write_text(APP)
    pid, terminal = pty.fork()
    if pid == 0:  # the child's own session, with the terminal as its controlling one
        os.chdir(tmp_path)
        os.execv(sys.executable, [sys.executable, "-W", "error", "app.py", "asyncio"])
    try:
        shown = read_until(terminal, b"try ")
        os.write(terminal, b"\x03")
        shown += read_until(terminal, b"report stopped")
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 0
    assert b"Traceback" not in shown
    assert b"stopped cleanly" in shown


def read_until(terminal: int, wanted: bytes) -> bytes:
    shown = b""
    while wanted not in shown:
        assert select.select([terminal], [], [], BOUND)[0], shown
        try:
            shown += os.read(terminal, 65536)
        except OSError:  # nobody has the terminal any more
            raise AssertionError(shown.decode()) from None
    return shown


def test_a_signal_while_the_child_starts_ends_both_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    with WatchedProcess(["app.py", "trio"], tmp_path) as process:
        process.wait_for("starting")  # the parent
        process.wait_for("starting")  # the child
        process.children()
        process.process.send_signal(signal.SIGINT)
        assert process.exit_status() == 0
        assert process.children() == []
        assert "Traceback" not in process.text
