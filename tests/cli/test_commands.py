"""Every command as its users run it: what it prints, and its exit status."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from anyio.from_thread import start_blocking_portal
from click.testing import CliRunner
from command_line import APP, Run
from watched_process import WatchedProcess

from definable.agent.bus import SQLiteBus
from definable.cli import main
from definable.cli.target import harmless

COMMANDS = ["serve", "run", "triggers", "emit", "deadletters", "init", "demo", "completion"]


@pytest.mark.parametrize("command", [[], *[[c] for c in COMMANDS], ["deadletters", "list"], ["deadletters", "replay"]])
def test_every_command_has_help(command: list[str]) -> None:
    result = CliRunner().invoke(main, [*command, "--help"])
    assert result.exit_code == 0
    assert "Usage: " in result.output
    assert all(len(line) <= 100 for line in result.output.splitlines())


def test_the_help_lists_the_commands_and_how_to_complete_them() -> None:
    said = CliRunner().invoke(main, ["--help"]).output
    assert all(re.search(rf"^  {command} ", said, re.MULTILINE) for command in COMMANDS)
    assert 'eval "$(definable completion bash)"' in said


@pytest.mark.parametrize("command", ["serve", "run", "triggers"])
def test_every_command_names_what_it_cannot_find(definable: Run, command: str) -> None:
    done = definable(command, "ap:agent", *(["hi"] if command == "run" else []))
    assert (done.status, done.out) == (2, "")
    assert done.err.splitlines() == ["Error: there is no module 'ap', did you mean app?; here is app.py"]


def test_a_program_that_fails_is_shown_by_its_own_traceback_alone(definable: Run, project: Path) -> None:
    (project / "broken.py").write_text("1 / 0\n")
    done = definable("run", "broken.py", "hi")
    assert (done.status, done.out) == (1, "")
    first, *_, cause, last = done.err.splitlines()
    assert first == "Traceback (most recent call last):"
    assert cause == "ZeroDivisionError: division by zero"
    assert last == "Error: broken cannot be loaded: its own code fails, see above"


# --- run


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_run_prints_the_reply(definable: Run, backend: str) -> None:
    done = definable("run", "app:agent", "hello there", "--backend", backend)
    assert (done.status, done.out, done.err) == (0, "hello there\n", "")


@pytest.mark.parametrize("arguments", [["-"], []])
def test_run_reads_its_input_from_a_pipe(definable: Run, arguments: list[str]) -> None:
    assert definable("run", "app.py", *arguments, stdin="piped in").out == "piped in\n"


def test_run_refuses_an_empty_input(definable: Run) -> None:
    done = definable("run", "app.py", stdin="")
    assert done.status == 2
    assert "the input is empty" in done.err


def test_run_goes_on_with_a_session(definable: Run, project: Path) -> None:
    (project / "app.py").write_text(
        "from definable.agent import Agent\n"
        "from definable.agent.session import SQLiteSessionStore\n"
        "from definable.model import OfflineModel\n"
        "agent = Agent(OfflineModel(lambda request: f'{len(request.messages)} messages'),\n"
        "              sessions=SQLiteSessionStore('sessions.db'))\n"
    )
    assert definable("run", "app.py", "a", "--session", "s1").out == "1 messages\n"
    assert definable("run", "app.py", "b", "--session", "s1").out == "3 messages\n"
    other = definable("run", "app.py", "c", "--session", "s1", "--user", "eve")
    assert (other.status, other.err) == (1, "Error: SessionNotFound: there is no session 's1'\n")


TOOLS = """
from definable.agent import Agent
from definable.model import ModelReply, OfflineModel, ToolCall
from pydantic import BaseModel

class Sum(BaseModel):
    total: int

def add(a: int, b: int) -> int:
    '''Add.'''
    return a + b

calls = ModelReply("let me see: ", tool_calls=(ToolCall("add", {"a": 1, "b": 2}), ToolCall("add", {"a": "x"})))
agent = Agent(OfflineModel([calls, "it is 3"]), tools=[add])
typed = Agent(OfflineModel(['no json', '{"total": 3}']), output_type=Sum)
failing = Agent(OfflineModel([RuntimeError("two\\nlines \\x1b[2K")]))
"""


def test_run_shows_tool_calls_beside_the_reply(definable: Run, project: Path) -> None:
    (project / "app.py").write_text(TOOLS)
    done = definable("run", "app:agent", "hi")
    assert done.out == "let me see: it is 3\n"
    assert '-> add({"a": 1, "b": 2})' in done.err
    assert "add failed: " in done.err
    assert definable("run", "app:agent", "hi", "--quiet").err.count("->") == 0


def test_run_prints_structured_output_once_as_json(definable: Run, project: Path) -> None:
    (project / "app.py").write_text(TOOLS)
    assert json.loads(definable("run", "app:typed", "hi").out) == {"total": 3}


def test_a_run_that_fails_says_why_in_one_line(definable: Run, project: Path) -> None:
    (project / "app.py").write_text(TOOLS)
    done = definable("run", "app:failing", "hi")
    assert (done.status, done.out) == (1, "")
    assert done.err == "Error: the run failed: RuntimeError: two lines \\x1b[2K\n"


def test_a_missing_key_is_one_line(definable: Run, project: Path) -> None:
    (project / "app.py").write_text('from definable.agent import Agent\nagent = Agent("openai/gpt-4o")\n')
    done = definable("run", "app.py", "hi", OPENAI_API_KEY="")
    assert done.status == 1
    assert done.err.startswith("Error: ModelAuthenticationError: ")
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_ctrl_c_ends_a_run_without_a_traceback(project: Path, backend: str) -> None:
    (project / "app.py").write_text(
        "from definable.agent import Agent\n"
        "from definable.model import OfflineModel\n"
        "agent = Agent(OfflineModel(latency=60))\n"
        "@agent.before_request\n"
        "async def begun(context): print('begun', flush=True)\n"
    )
    with WatchedProcess(["-m", "definable", "run", "app.py", "hi", "--backend", backend], project) as process:
        process.wait_for("begun")
        process.process.send_signal(signal.SIGINT)
        assert process.exit_status() == 130
        assert "Traceback" not in process.text


def test_a_reader_that_goes_away_ends_a_run_quietly(project: Path) -> None:
    (project / "app.py").write_text(
        "from definable.agent import Agent\n"
        "from definable.model import OfflineModel\n"
        "agent = Agent(OfflineModel(['word ' * 100_000]))\n"
    )
    command = f"{sys.executable} -m definable run app.py hi | head -c 4"
    done = subprocess.run(command, shell=True, cwd=project, capture_output=True, text=True, timeout=50, check=False)
    assert done.stdout == "word"
    assert "Error" not in done.stderr
    assert "Traceback" not in done.stderr


def test_what_a_model_says_cannot_steer_the_terminal() -> None:
    assert harmless("one\n\ttwo \x1b[2K\r") == "one\n\ttwo \\x1b[2K\\r"


# --- triggers


def test_triggers_shows_the_next_firings_in_both_zones(definable: Run) -> None:
    done = definable("triggers", "app.py", "--next", "2", TZ="America/New_York")
    assert done.status == 0
    head, webhook, event, cron, again = done.out.splitlines()
    assert head.split() == "TRIGGER HANDLER NEXT (LOCAL TIME) NEXT (ITS OWN ZONE)".split()
    assert webhook.split() == ["POST", "/hello", "(public)", "on_hello"]
    assert event.split() == ["event(user.*)", "on_user"]
    assert re.search(r"cron\(0 9 \* \* \*\) +every_morning +.*\d\d:00:00 E[SD]T +.*09:00:00 JST Asia/Tokyo$", cron)
    assert "09:00:00 JST" in again


TIMES = """
from definable import Agent, Interval, OneShot

agent = Agent("offline")
for trigger in (Interval(86400), OneShot("2999-01-02T03:04:05+00:00"), OneShot(delay=5), OneShot(0)):
    agent.on(trigger)(print)
"""


def test_triggers_shows_intervals_and_one_shots(definable: Run, project: Path) -> None:
    (project / "app.py").write_text(TIMES)
    done = definable("triggers", "app.py", "--next", "2", TZ="UTC")
    assert done.status == 0, done.err
    _, daily, again, once, delayed, past = done.out.splitlines()
    assert re.match(r"interval\(86400s\) +print +\w{3} .* 00:00:00 UTC", daily) and "00:00:00 UTC" in again
    assert re.match(r"oneshot\(2999-01-02T03:04:05\+00:00\) +print +Wed 2999-01-02 03:04:05 UTC", once)
    assert delayed.split(maxsplit=2) == ["oneshot(+5s)", "print", "5 s after the start"]
    assert past.split(maxsplit=2) == ["oneshot(1970-01-01T00:00:00+00:00)", "print", "at 1970-01-01 00:00:00 UTC"]


def test_triggers_of_an_agent_without_any(definable: Run, project: Path) -> None:
    (project / "app.py").write_text('from definable.agent import Agent\nagent = Agent("offline", name="plain")\n')
    assert definable("triggers", "app.py").out.startswith("plain has no triggers")


CONFLICT = """
from definable.agent import Agent
from definable.agent.interface import BaseInterface
from definable.agent.trigger import Webhook


class Chat(BaseInterface):
    async def receive(self, accept): ...

    async def send(self, message, response): ...

    def webhooks(self):
        return [(Webhook("/chat"), print)]


agent = Agent("offline")
agent.add_interface(Chat())
agent.add_interface(Chat())
"""


def test_triggers_says_of_two_for_one_path_what_serve_says(definable: Run, project: Path) -> None:
    (project / "app.py").write_text(CONFLICT)
    said = "Error: POST /chat is registered already, as POST /chat: choose another path\n"
    for command in ("triggers", "serve"):
        done = definable(command, "app.py")
        assert (done.status, done.err) == (1, said)


# --- init


def test_init_writes_a_program_that_runs_and_never_overwrites(definable: Run, project: Path) -> None:
    done = definable("init", "new/my service.py")
    assert done.status == 0
    assert "definable serve 'new/my service.py' --dev" in done.out
    path = project / "new" / "my service.py"
    path.rename(project / "started.py")
    assert definable("run", "started.py", "hello", OPENAI_API_KEY="").out == "hello\n"
    assert "cron(0 9 * * *)" in definable("triggers", "started.py").out
    before = (project / "app.py").read_text()
    again = definable("init")
    assert (again.status, again.err) == (1, "Error: app.py is there already and stays as it is: give another name\n")
    assert (project / "app.py").read_text() == before


def test_init_in_a_directory_and_with_a_wrong_name(definable: Run, project: Path) -> None:
    (project / "empty").mkdir()
    assert definable("init", "empty").status == 0
    assert (project / "empty" / "app.py").exists()
    assert definable("init", "notes.txt").status == 2


def test_init_names_what_is_in_its_way(definable: Run, project: Path) -> None:
    done = definable("init", "app.py/x.py")
    assert (done.status, done.err) == (1, "Error: app.py is there already and stays as it is: give another name\n")
    (project / "loop").symlink_to("loop")
    done = definable("init", "loop/deep/x.py")
    assert (done.status, done.err) == (
        1,
        "Error: loop/deep/x.py cannot be written: Too many levels of symbolic links\n",
    )


def test_the_starter_is_formatted_and_clean(definable: Run, project: Path) -> None:
    definable("init", "new.py")
    for check in (["format", "--check"], ["check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *check, "--line-length", "120", "--isolated", "new.py"],
            cwd=project,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stdout


# --- completion


@pytest.mark.parametrize(
    ("shell", "sign"), [("bash", "complete -o"), ("zsh", "#compdef definable"), ("fish", "complete ")]
)
def test_completion_prints_what_the_shell_evaluates(definable: Run, shell: str, sign: str) -> None:
    done = definable("completion", shell)
    assert done.status == 0
    assert sign in done.out
    assert "_DEFINABLE_COMPLETE" in done.out


def test_an_unknown_shell_is_refused(definable: Run) -> None:
    assert definable("completion", "tcsh").status == 2


def test_commands_complete() -> None:
    env = {"_DEFINABLE_COMPLETE": "bash_complete", "COMP_WORDS": "definable tri", "COMP_CWORD": "1"}
    assert "plain,triggers" in CliRunner().invoke(main, [], prog_name="definable", env=env).output


def test_an_agent_completes_to_files() -> None:
    env = {"_DEFINABLE_COMPLETE": "bash_complete", "COMP_WORDS": "definable run ap", "COMP_CWORD": "2"}
    assert CliRunner().invoke(main, [], prog_name="definable", env=env).output == "file,ap\n"


# --- serve


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_serve_serves_until_a_signal(project: Path, backend: str) -> None:
    arguments = ["-m", "definable", "serve", "app:agent", "--host", "127.0.0.1", "--port", "0", "--backend", backend]
    with WatchedProcess(arguments, project) as process:
        process.wait_for(rf"INFO definable: app on offline \({backend}\)")
        url = process.wait_for(r"http +(http://\S+)")
        assert httpx2.post(f"{url}/hello").json()["content"] == "hi"
        process.process.send_signal(signal.SIGTERM)
        assert process.exit_status() == 0
        assert "http: 1 completed" in process.lines[-1]


def test_serve_goes_by_the_program_and_the_command_line_above_it(project: Path) -> None:
    (project / "app.py").write_text(f"{APP}\nagent.serve(host='127.0.0.1', port=1, backend='trio', name='mine')\n")
    arguments = ["-m", "definable", "serve", "app.py", "--port", "0"]
    with WatchedProcess(arguments, project) as process:
        process.wait_for(r"INFO definable: mine on offline \(trio\)")
        process.wait_for(r"http +http://127.0.0.1:\d+")
        process.process.send_signal(signal.SIGINT)
        assert process.exit_status() == 0
        assert process.text.count("mine on offline") == 1


def test_serve_logs_json_with_the_programs_own_records(project: Path) -> None:
    (project / "app.py").write_text(
        APP.replace('return "hi"', 'logging.getLogger(__name__).info("own\\nwords"); return "hi"').replace(
            "from definable.agent import", "import logging\nfrom definable.agent import", 1
        )
    )
    arguments = ["-m", "definable", "serve", "app.py", "--host", "127.0.0.1", "--port", "0", "--log-format", "json"]
    with WatchedProcess(arguments, project) as process:
        url = process.wait_for(r"http +(http://[^\\]+)")
        httpx2.post(f"{url}/hello")
        process.process.send_signal(signal.SIGTERM)
        assert process.exit_status() == 0
        records = [json.loads(line) for line in process.lines]
    (own,) = [record for record in records if record["logger"] == "app"]
    assert own["message"] == "own\nwords"
    assert own["trigger_id"]


def test_serve_logs_what_is_asked_for(project: Path) -> None:
    arguments = ["-m", "definable", "serve", "app.py", "--no-server", "--log-level", "debug"]
    with WatchedProcess(arguments, project) as process:
        process.wait_for("app on offline")
        process.process.send_signal(signal.SIGTERM)
        assert process.exit_status() == 0
        assert " http  " not in process.text


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--port", "70000"], 2, "'--port': 70000 is not in the range"),
        (["--event-workers", "0"], 1, "event_workers=0: at least 1"),
        (["--certfile", "missing.pem"], 2, "'missing.pem' does not exist"),
        (["--host", "192.0.2.1", "--port", "0"], 1, "cannot listen on 192.0.2.1:"),
        (["--backend", "curio"], 2, "'--backend': 'curio' is not one of"),
    ],
)
def test_serve_refuses_in_one_line(definable: Run, arguments: list[str], status: int, said: str) -> None:
    done = definable("serve", "app.py", *arguments)
    assert done.status == status
    assert said in done.err.splitlines()[-1]
    assert done.err.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in done.err


def test_serve_in_development_mode_ends_at_once_when_the_command_line_is_wrong(definable: Run) -> None:
    done = definable("serve", "app:agnet", "--dev")
    assert done.status == 2
    assert "did you mean agent?" in done.err


@pytest.mark.skipif(os.name != "posix", reason="a pseudo-terminal")
def test_a_terminal_gets_colours_and_a_ctrl_c_ends_it(project: Path) -> None:
    import pty

    ours, theirs = pty.openpty()
    arguments = [sys.executable, "-m", "definable", "serve", "app.py", "--host", "127.0.0.1", "--port", "0"]
    env = {**os.environ, "TERM": "xterm"}
    env.pop("NO_COLOR", None)
    with subprocess.Popen(
        arguments,
        cwd=project,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=env,
        start_new_session=True,
        preexec_fn=controlling_terminal,
    ) as process:
        os.close(theirs)
        shown = read_until(ours, b"try ")
        os.write(ours, b"\x03")
        shown += read_until(ours, b"stopped cleanly")
        assert process.wait(timeout=20) == 0
    os.close(ours)
    assert b"\x1b[1mapp on offline (asyncio)\x1b[0m" in shown


def controlling_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def read_until(terminal: int, wanted: bytes) -> bytes:
    import select

    shown = b""
    while wanted not in shown:
        assert select.select([terminal], [], [], 20)[0], shown
        shown += os.read(terminal, 65536)
    return shown


# --- deadletters


DURABLE = """
from definable.agent import Agent
from definable.agent.bus import SQLiteBus
from definable.agent.trigger import EventTrigger

agent = Agent("offline", bus=SQLiteBus("events.db"))

@agent.on(EventTrigger("order"))
async def on_order(event):
    raise ValueError(f"no stock for {event.body['item']}\\n\\x1b[31m")
"""


@pytest.fixture
def dead(project: Path) -> Path:
    """A project whose bus has two dead letters."""
    (project / "app.py").write_text(
        f"{DURABLE}\nif __name__ == '__main__':\n"
        "    agent.emit('order', {'item': 'tea'})\n    agent.emit('order', {'item': 'rum'})\n"
        "    import threading, time\n"
        "    def stop():\n"
        "        while agent.runtime is None:\n"
        "            time.sleep(0.01)\n"
        "        time.sleep(0.5)\n"
        "        agent.runtime.stop()\n"
        "    threading.Thread(target=stop).start()\n"
        "    agent.serve(enable_server=False)\n"
    )
    subprocess.run([sys.executable, "app.py"], cwd=project, capture_output=True, timeout=30, check=True)
    return project


def test_dead_letters_are_listed_and_replayed(definable: Run, dead: Path) -> None:
    head, tea, _ = definable("deadletters", "list", "app.py").out.splitlines()
    assert head.split() == ["ID", "DIED", "TRIGGER", "ATTEMPTS", "WHY"]
    assert "event(order)" in tea
    assert r"ValueError: no stock for tea\n\x1b[31m" in tea
    lines = definable("deadletters", "list", "app.py", "--json").out.splitlines()
    assert [json.loads(line)["data"]["body"] for line in lines] == [{"item": "tea"}, {"item": "rum"}]

    first = tea.split()[0]
    one = definable("deadletters", "replay", "app:agent", first, "nobody")
    assert (one.status, one.out, one.err) == (1, f"replayed {first}\n", "there is no dead letter nobody\n")
    assert definable("deadletters", "list", "app.py").out.count("event(order)") == 1
    assert definable("deadletters", "replay", "app:agent", "--all").status == 0
    assert definable("deadletters", "list", "app.py").out == "there are no dead letters\n"
    assert definable("deadletters", "replay", "app:agent", "--all").out == "there are no dead letters\n"


def test_dead_letters_are_listed_and_replayed_while_the_service_runs(definable: Run, dead: Path) -> None:
    bus = SQLiteBus(dead / "events.db")
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(bus.open()):
        assert definable("deadletters", "list", "app.py").out.count("event(order)") == 2
        assert definable("deadletters", "replay", "app.py", "--all").out.count("replayed") == 2


def test_a_dead_letter_that_holds_half_an_emoji_is_listed_too(definable: Run, project: Path) -> None:
    item = "no \ud83d, n\xe4"
    (project / "app.py").write_text(DURABLE)
    (project / "fill.py").write_text(
        "from app import agent\nimport anyio\n"
        "async def fill():\n"
        "    async with agent.running(enable_server=False):\n"
        f"        await agent.aemit('order', {{'item': {item!a}}})\n"
        "anyio.run(fill)\n"
    )
    subprocess.run([sys.executable, "fill.py"], cwd=project, capture_output=True, timeout=30, check=True)
    assert definable("deadletters", "list", "app.py").status == 0
    done = definable("deadletters", "list", "app.py", "--json")
    assert (done.status, json.loads(done.out)["data"]["body"]) == (0, {"item": item})
    assert "n\xe4" in done.out


def test_replay_wants_ids_or_all(definable: Run) -> None:
    assert definable("deadletters", "replay", "app.py").status == 2
    assert definable("deadletters", "replay", "app.py", "x", "--all").status == 2


@pytest.mark.parametrize("command", [["list"], ["replay", "--all"]])
def test_an_agent_that_keeps_its_events_in_memory_has_none_to_show(definable: Run, command: list[str]) -> None:
    done = definable("deadletters", command[0], "app.py", *command[1:])
    assert done.status == 1
    assert "keeps its events in memory" in done.err


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["order"], 2, "--app AGENT or --bus URL"),
        (["order", "--app", "app.py", "--bus", "events.db"], 2, "--app AGENT or --bus URL"),
        (["order", "--app", "app.py", "--agent", "shop"], 2, "--app says it by itself"),
        (["order", "{no", "--app", "app.py"], 2, "PAYLOAD is no JSON"),
        (["order", "--app", "app.py", "--at", "nine"], 2, "or Unix seconds"),
        (["order", "--app", "app.py", "--at", "2026-01-31T09:00"], 1, "with a time zone"),
        (["", "--app", "app.py"], 1, "a string that is not empty"),
        (["order", "--app", "app.py"], 1, "keeps its events in memory"),
        (["order", "--bus", "events.db"], 1, "there is no such file"),
        (["order", "--bus", "http://bus"], 1, "a Redis URL is"),
    ],
)
def test_what_cannot_be_emitted_is_refused_with_a_reason(
    definable: Run, arguments: list[str], status: int, said: str
) -> None:
    done = definable("emit", *arguments)
    assert (done.status, said in done.err) == (status, True), done


def test_a_damaged_file_is_one_line(definable: Run, project: Path) -> None:
    (project / "app.py").write_text(DURABLE)
    (project / "events.db").write_bytes(b"no database" * 1000)
    done = definable("deadletters", "list", "app.py")
    assert done.status == 1
    assert len(done.err.splitlines()) == 1
    assert "events.db" in done.err


@pytest.mark.parametrize("command", [["app.py"], ["-m", "app"], ["-m", "definable", "serve", "app.py", "--no-server"]])
def test_a_trigger_has_one_key_however_its_program_is_started(project: Path, command: list[str]) -> None:
    (project / "app.py").write_text(
        "from definable.agent import Agent\n"
        "from definable.agent.trigger import EventTrigger\n"
        "agent = Agent('offline')\n"
        "trigger = EventTrigger('order')\n"
        "@agent.on(trigger)\n"
        "async def on_order(event):\n"
        "    print(trigger.key, flush=True)\n"
        "    agent.runtime.stop()\n"
        "agent.emit('order')\n"
        "if __name__ == '__main__':\n"
        "    agent.serve(enable_server=False)\n"
    )
    with WatchedProcess(command, project) as process:
        assert process.exit_status() == 0
        assert "event(order)" in process.lines


LOGGING = """
import logging
logging.basicConfig(level="INFO", format="mine %(message)s")
logging.getLogger().addHandler(logging.FileHandler("service.log"))
"""


@pytest.mark.parametrize(("options", "sign"), [([], "mine app on offline"), (["--log-format", "json"], '{"time": ')])
def test_a_programs_own_logging_counts_unless_told_otherwise(project: Path, options: list[str], sign: str) -> None:
    (project / "app.py").write_text(LOGGING + APP)
    with WatchedProcess(["-m", "definable", "serve", "app.py", "--no-server", *options], project) as process:
        process.wait_for(re.escape(sign))
        process.process.send_signal(signal.SIGTERM)
        assert process.exit_status() == 0
    assert "stopped cleanly" in (project / "service.log").read_text()
