"""Log lines: what a person reads, what a machine reads, whose run it was, and what nobody can forge."""

import json
import logging
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from definable.agent import Agent, RunContext
from definable.agent.runtime import JSONFormatter, RunContextFilter, TextFormatter
from definable.agent.runtime.logging import Block, escaped
from definable.agent.trigger import EventTrigger, TriggerEvent, Webhook
from definable.model import ModelReply, OfflineModel, ToolCall
from definable.testing import served

pytestmark = pytest.mark.anyio

logger = logging.getLogger("program")


class Records(logging.Handler):
    """Keeps records, with the ids on them."""

    def __init__(self) -> None:
        super().__init__()
        self.addFilter(RunContextFilter())
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def ids(self, message: str) -> tuple[str, str, str]:
        (record,) = [record for record in self.records if record.getMessage().startswith(message)]
        return tuple(getattr(record, name) for name in ("run_id", "session_id", "trigger_id"))  # type: ignore[return-value]


@pytest.fixture
def records() -> Iterator[Records]:
    handler, root = Records(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)


def record(message: str, *args: object, level: int = logging.INFO, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("program", level, __file__, 1, message, args, None)
    made.created = 0.0
    vars(made).update(fields)
    return made


async def test_all_that_a_run_logs_bears_its_ids(records: Records) -> None:
    async def deep() -> str:
        """Asynchronous."""
        logger.info("in a tool")
        return ""

    def blocking() -> str:
        """In a thread."""
        assert threading.current_thread() is not threading.main_thread()
        logger.info("in a thread")
        return ""

    calls = ModelReply(tool_calls=(ToolCall("deep"), ToolCall("blocking")))
    agent = Agent(OfflineModel([calls, "done"]), tools=[deep, blocking])
    agent.before_request(lambda context: logger.info("in a hook"))
    output = await agent.arun("hi", session_id="s1")
    logger.info("outside")
    for message in ("in a tool", "in a thread", "in a hook"):
        assert records.ids(message) == (output.run_id, "s1", "")
    assert records.ids("outside") == ("", "", "")


async def test_a_trigger_is_named_before_its_run_and_in_it(records: Records) -> None:
    agent = Agent("offline")
    seen: list[TriggerEvent] = []

    @agent.on(Webhook("/hello"))
    async def hello(event: TriggerEvent) -> str:
        seen.append(event)
        logger.info("in the handler")
        return "hi"

    agent.before_request(lambda context: logger.info("in the run"))
    async with served(agent) as service:
        document = (await service.client.post("/hello")).json()
    assert records.ids("in the handler") == ("", "", seen[0].id)
    assert records.ids("in the run") == (document["run_id"], document["session_id"], seen[0].id)


async def test_a_failure_that_is_logged_after_its_run_bears_the_runs_ids(records: Records) -> None:
    agent = Agent(OfflineModel([ValueError("no")]))
    events: list[TriggerEvent] = []
    done = anyio.Event()

    @agent.on(EventTrigger("user"))
    async def on_user(event: TriggerEvent) -> dict[str, str]:
        events.append(event)
        return {"input": "hi", "session_id": "s1"}

    @agent.on_error
    async def failed(context: object, error: Exception) -> None:
        done.set()

    async with agent.running(enable_server=False):
        await agent.aemit("user", {})
        with anyio.fail_after(10):
            await done.wait()
    run_id, session_id, trigger_id = records.ids("event(user) failed")
    assert run_id.startswith("run_")
    assert (session_id, trigger_id) == ("s1", events[0].id)


async def test_a_run_that_timed_out_bears_its_ids(records: Records) -> None:
    agent = Agent(OfflineModel(latency=60), run_timeout=0.01)
    contexts: list[RunContext] = []

    @agent.before_request
    async def begin(context: RunContext) -> None:
        contexts.append(context)

    agent.on_error(lambda context, error: logger.info("in the hook"))
    async with served(agent) as service:
        assert (await service.client.post("/run", json={"input": "hi"})).status_code == 504
    ids = (contexts[0].run_id, contexts[0].session_id, "")
    assert (records.ids("in the hook"), records.ids("POST '/run' failed")) == (ids, ids)


async def test_a_failure_bears_its_ids_without_a_traceback_too(records: Records) -> None:
    agent, kept = Agent(OfflineModel([ValueError("no")])), list[Exception]()
    with pytest.raises(ValueError) as caught:
        await agent.arun("hi", session_id="s1")
    kept.append(caught.value.with_traceback(None))
    logger.error("failed", exc_info=kept[0])
    logger.error("something else", exc_info=ValueError("of no run"))
    logger.error("nothing", exc_info=True)
    assert records.ids("failed")[0].startswith("run_")
    assert records.ids("failed")[1:] == ("s1", "")
    assert records.ids("something else") == records.ids("nothing") == ("", "", "")


async def test_ids_given_as_extra_are_left_alone(records: Records) -> None:
    logger.info("mine", extra={"run_id": "run_other"})
    assert records.ids("mine")[0] == "run_other"


def test_a_line_for_people() -> None:
    line = TextFormatter().format(record("hello %s", "world", run_id="run_1", session_id="s1", trigger_id=""))
    assert re.fullmatch(r"\d\d:\d\d:\d\d INFO program: hello world \(run_1, s1\)", line)


def test_colours_only_where_they_are_wanted() -> None:
    warning = record("careful", level=logging.WARNING)
    assert "\x1b" not in TextFormatter().format(warning)
    assert "\x1b[33mWARNING\x1b[0m" in TextFormatter(colour=True).format(warning)


def test_a_block_keeps_its_lines_and_another_text_does_not() -> None:
    assert TextFormatter().format(record("%s", Block("a\nb"))).endswith(": a\n  b")
    assert TextFormatter().format(record("%s", "a\nb")).endswith(r": a\nb")


FORGERIES = [
    "x\n00:00:00 INFO definable: all is well",
    "x\r\x1b[2K",
    "\x1b]0;title\x07",
    "a\u2028b",
    "a\x85b",
    "\u202etxet",
]


@pytest.mark.parametrize("text", FORGERIES)
def test_nothing_that_is_logged_forges_a_line(text: str) -> None:
    line = TextFormatter().format(record("body %s", text, run_id=text))
    assert len(line.splitlines()) == 1
    assert escaped(text) in line
    assert not set(line) & set("\r\x1b\x07\u2028\x85\u202e")


@pytest.mark.parametrize("formatter", [TextFormatter(), TextFormatter(colour=True)])
def test_an_exceptions_words_forge_no_line_either(formatter: logging.Formatter) -> None:
    try:
        raise ValueError("x\n00:00:00 INFO definable: forged\x1b[2K")
    except ValueError:
        failed = record("failed", exc_info=sys.exc_info())
    first, *rest = formatter.format(failed).split("\n")
    assert "failed" in first
    assert all(line.startswith("  ") for line in rest)
    assert "\x1b[2K" not in "\n".join(rest)


@given(st.text(), st.text())
def test_any_text_stays_one_line_and_one_json_object(message: str, extra: str) -> None:
    made = record("%s", message, run_id=extra, customer=extra)
    assert len(TextFormatter().format(made).splitlines()) == 1
    (line,) = JSONFormatter().format(made).splitlines()
    fields = json.loads(line)
    assert (fields["message"], fields["customer"]) == (message, extra)


def test_a_json_line_says_it_all() -> None:
    try:
        raise KeyError("x")
    except KeyError:
        made = record("failed", run_id="run_1", session_id="", exc_info=sys.exc_info(), customer=Path("a"))
    fields = json.loads(JSONFormatter().format(made))
    assert fields["time"] == "1970-01-01T00:00:00.000+00:00"
    assert (fields["level"], fields["logger"], fields["message"]) == ("info", "program", "failed")
    assert (fields["run_id"], fields["customer"]) == ("run_1", "PosixPath('a')")
    assert "session_id" not in fields
    assert (fields["exception"]["type"], fields["exception"]["message"]) == ("KeyError", "'x'")
    assert "Traceback" in fields["exception"]["traceback"]


PROGRAM = """
import logging
{setup}
from definable.agent import Agent, RunContext
from definable.agent.trigger import EventTrigger

agent = Agent("offline")

@agent.on(EventTrigger("x"))
async def on_x(event):
    logging.getLogger("__main__").info("handled")
    agent.runtime.stop()

agent.emit("x")
agent.serve(enable_server=False)
"""


def output_of(setup: str) -> str:
    code = PROGRAM.format(setup=setup)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    return done.stderr


def test_a_program_without_logging_of_its_own_shows_its_records_with_their_ids() -> None:
    assert re.search(r"INFO __main__: handled \([^ ]+\)", output_of(""))


def test_a_program_with_logging_of_its_own_keeps_it() -> None:
    shown = output_of("logging.basicConfig(level='INFO', format='mine %(message)s')")
    assert "mine handled" in shown
    assert all(line.startswith(("mine ", "  ", "http", "event", "cron", "auth")) for line in shown.splitlines())


def test_importing_installs_no_handler() -> None:
    code = "import logging, definable.agent.runtime.entry; print(logging.getLogger('definable').hasHandlers())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "False"
