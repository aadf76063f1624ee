"""Every line of the page that this package was written from: its snippets as they stand, its tables row by row.

`source_document.md` is that page. A snippet is run up to its `serve`, which notes what it was called with; the agent is
then served on a free loopback port, by both backends, with a loopback server in place of OpenAI and of Telegram.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import json
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import httpx2
import pytest
from loopback.openai_server import Completion, OpenAIServer
from loopback.telegram_bot import bot_for
from loopback.telegram_server import TelegramServer

from definable.agent import Agent, RunContext, RunOutput
from definable.agent.auth import APIKeyAuth
from definable.agent.interface import BaseInterface, DiscordInterface, TelegramInterface
from definable.agent.runtime import AgentRuntime
from definable.agent.runtime.settings import ServeSettings
from definable.agent.trigger import BaseTrigger, Cron, EventTrigger, TriggerEvent, Webhook
from definable.concurrency.backoff import Backoff
from definable.testing import OfflineModel, Served, run, served

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "tests" / "source_document.md").read_text()
SECTIONS = {section.partition("\n")[0]: section for section in re.split(r"^##+ ", PAGE, flags=re.MULTILINE)[1:]}

pytestmark = pytest.mark.anyio


@dataclass
class Program:
    """A snippet that was run up to its `serve`, and what that was called with."""

    agent: Agent
    serves: list[tuple[tuple[BaseInterface, ...], dict[str, Any]]] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def served(self, **changes: Any) -> AsyncGenerator[Served]:
        """Serve it as it says, but on a free port of the loopback interface."""
        interfaces, options = self.serves[-1] if self.serves else ((), {})
        async with served(self.agent, *interfaces, **options | {"host": "127.0.0.1", "port": 0} | changes) as service:
            yield service


def blocks(section: str, language: str) -> list[str]:
    return re.findall(rf"```{language} theme=\{{null\}}\n(.*?)```", SECTIONS[section], re.DOTALL)


def program(section: str, monkeypatch: pytest.MonkeyPatch, **names: Any) -> Program:
    """Run a section's snippets, as they stand; `names` is what they take for granted."""
    namespace: dict[str, Any] = {"agent": Agent(OfflineModel()), **names}
    noted = Program(namespace["agent"])

    def serve(agent: Agent, *interfaces: BaseInterface, **options: Any) -> None:
        noted.serves.append((interfaces, options))

    monkeypatch.setattr(Agent, "serve", serve)
    for block in blocks(section, "python"):
        exec(compile(block, section, "exec"), namespace)
    noted.agent = namespace["agent"]
    return noted


def parameters(section: str) -> dict[str, tuple[str, str | None]]:
    """The parameters that a section documents: type and default, or None where it is required."""
    found = re.findall(r'<ParamField path="([^"]+)" type="([^"]+)" ?(required|default="[^"]*")?', SECTIONS[section])
    return {name: (kind, None if rest in ("required", "") else rest.split('"')[1]) for name, kind, rest in found}


def rows(section: str) -> list[list[str]]:
    """The rows of a section's table, without its head."""
    lines = [line for line in SECTIONS[section].splitlines() if line.startswith("|")][2:]
    return [[cell.strip().strip("`") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


async def texts(service: Served, path: str, **request: Any) -> Any:
    response = await service.client.post(path, **request)
    assert response.status_code == 200, response.text
    return response.json()


# --- Quick Start


@pytest.fixture
async def openai(anyio_backend: object, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[OpenAIServer]:
    async with OpenAIServer(models=["gpt-4o"]).running() as server:
        monkeypatch.setenv("OPENAI_API_KEY", server.key)
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        yield server


@contextlib.contextmanager
def killed_if_running(process: anyio.abc.Process) -> Iterator[None]:
    """Ends a process whose test has failed: leaving `async with process` waits for its end without a bound."""
    try:
        yield
    finally:
        if process.returncode is None:
            process.kill()


def curl_request() -> tuple[str, dict[str, str], str]:
    """The path, headers and body of the page's `curl`."""
    words = shlex.split(blocks("Quick Start", "bash")[0].replace("\\\n", " "))
    assert words[:3] == ["curl", "-X", "POST"]
    name, _, value = words[words.index("-H") + 1].partition(": ")
    return httpx2.URL(words[3]).path, {name: value}, words[words.index("-d") + 1]


async def test_the_quick_start_answers_the_curl_of_the_page(
    openai: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = program("Quick Start", monkeypatch)
    assert started.serves == [((), {"port": 8000})]
    path, headers, body = curl_request()
    openai.play(Completion("Hello to you!"))
    async with started.served() as service:
        answer = await texts(service, path, content=body, headers=headers)
    assert answer["content"] == "Hello to you!"
    assert answer["run_id"] and answer["session_id"]
    [request] = openai.received
    assert [(message["role"], message["content"]) for message in request.body["messages"]] == [
        ("system", "You are a helpful assistant."),
        ("user", "Process this: {'message': 'Hello!'}"),
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_quick_start_is_a_program_that_a_signal_ends_cleanly(
    openai: OpenAIServer, tmp_path: Path, number: signal.Signals
) -> None:
    """The real `serve`, in a process of its own, on a free loopback port in place of 8000."""
    code = blocks("Quick Start", "python")[0].replace("serve(port=8000)", "serve(port=0, host='127.0.0.1')")
    (tmp_path / "app.py").write_text(code)
    path, headers, body = curl_request()
    command = [sys.executable, "-W", "error", "app.py"]
    async with await anyio.open_process(command, cwd=tmp_path, stdout=subprocess.DEVNULL) as process:
        assert process.stderr is not None
        log = ""
        with killed_if_running(process), anyio.fail_after(30):
            while not (url := re.search(r"http     (http://\S+)", log)):
                log += (await process.stderr.receive()).decode()
            async with httpx2.AsyncClient(trust_env=False, verify=False) as client:
                answer = await client.post(url[1] + path, content=body, headers=headers)
            process.send_signal(number)
            with contextlib.suppress(anyio.EndOfStream):
                while True:
                    log += (await process.stderr.receive()).decode()
            assert await process.wait() == 0, log
    assert answer.json()["content"] == "ok"
    assert "stopped cleanly" in log


# --- serve() / aserve()


async def test_serve_and_aserve_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(Agent, "serve", lambda _, **options: calls.append(("serve", options)))
    aserve = Agent.aserve

    async def aserve_on_loopback(agent: Agent, **options: Any) -> None:
        calls.append(("aserve", options))
        async with anyio.create_task_group() as group:
            here = options | {"host": "127.0.0.1", "port": 0}
            url = await group.start(lambda task_status: aserve(agent, **here, task_status=task_status))
            assert url is not None
            group.cancel_scope.cancel()

    monkeypatch.setattr(Agent, "aserve", aserve_on_loopback)
    agent = Agent("offline")
    agent.on(Webhook("/x"))(lambda event: None)
    [block] = blocks("serve() / aserve()", "python")
    code = compile(block, "page", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    ran = eval(code, {"agent": agent})
    assert inspect.isawaitable(ran)
    await ran
    assert calls == [("serve", {"port": 8000}), ("aserve", {"port": 8000})]


async def test_serve_refuses_to_block_an_event_loop_and_names_aserve() -> None:
    with pytest.raises(RuntimeError, match="aserve"):
        Agent("offline").serve(host="127.0.0.1", port=0)


def test_serve_has_the_parameters_and_defaults_of_the_page() -> None:
    documented = parameters("serve() / aserve()")
    assert documented.pop("*interfaces") == ("BaseInterface", None)
    for function in (Agent.serve, Agent.aserve):
        assert inspect.signature(function).parameters["interfaces"].kind is inspect.Parameter.VAR_POSITIONAL
    settings = ServeSettings()
    defaults = {name: getattr(settings, name) for name in documented}
    assert defaults == {"name": None, "host": "0.0.0.0", "port": 8000, "enable_server": None, "dev": False}
    says = {"None": None, "false": False, "8000": 8000, "0.0.0.0": "0.0.0.0"}
    assert {name: says[str(default)] for name, (_, default) in documented.items()} == defaults
    assert issubclass(TelegramInterface, BaseInterface) and issubclass(DiscordInterface, BaseInterface)


async def test_the_name_is_the_agents_unless_it_is_given() -> None:
    agent = Agent("offline", name="clerk")
    assert AgentRuntime(agent).name == "clerk"
    assert AgentRuntime(agent, name="desk").name == "desk"


@pytest.mark.parametrize("enable_server", [None, True, False])
@pytest.mark.parametrize("trigger", [Webhook, Cron])
async def test_the_server_starts_by_itself_when_webhooks_are_registered(
    enable_server: bool | None, trigger: type[BaseTrigger]
) -> None:
    agent = Agent("offline")
    agent.on(Webhook("/x") if trigger is Webhook else Cron("0 9 * * *"))(lambda event: None)
    async with agent.running(host="127.0.0.1", port=0, enable_server=enable_server) as runtime:
        assert (runtime.url is not None) is (trigger is Webhook if enable_server is None else enable_server)


# --- Webhooks


async def test_the_webhook_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    webhook = program("Webhooks", monkeypatch)
    async with webhook.agent.running(host="127.0.0.1", port=0) as runtime:  # the server starts by itself
        async with httpx2.AsyncClient(trust_env=False, verify=False) as client:
            response = await client.post(f"{runtime.url}/github", json={"action": "opened"})
    assert response.json()["content"] == "Summarize this GitHub event: {'action': 'opened'}"


def test_a_webhook_has_the_parameters_and_defaults_of_the_page() -> None:
    assert parameters("Webhook Parameters") == {
        "path": ("str", None),
        "method": ("str", "POST"),
        "auth": ("Any", "None"),
    }
    webhook = Webhook("/github")
    assert (webhook.path, webhook.method, webhook.auth) == ("/github", "POST", None)


async def test_a_webhook_inherits_the_agents_auth_overrides_it_or_has_none() -> None:
    agent = Agent("offline")
    agent.auth = APIKeyAuth(keys={"the-agents-key-0123456789"})
    agent.on(Webhook("/inherits"))(lambda event: "in")
    agent.on(Webhook("/public", auth=False))(lambda event: "in")
    agent.on(Webhook("/own", auth=APIKeyAuth(keys={"the-webhooks-key-0123456789"})))(lambda event: "in")
    agent.on(Webhook("/put", method="PUT", auth=False))(lambda event: "in")
    async with served(agent) as service:
        for path, key, status in [
            ("/inherits", "", 401),
            ("/inherits", "the-agents-key-0123456789", 200),
            ("/public", "", 200),
            ("/own", "the-agents-key-0123456789", 401),
            ("/own", "the-webhooks-key-0123456789", 200),
        ]:
            response = await service.client.post(path, json={}, headers={"X-API-Key": key} if key else {})
            assert response.status_code == status, (path, key)
        assert (await service.client.put("/put", json={})).status_code == 200
        assert (await service.client.post("/put", json={})).status_code == 405


async def test_what_a_handler_returns_decides_what_happens_next() -> None:
    assert [row[0] for row in rows("Handler Return Values")] == ["str", "dict", "None"]
    model = OfflineModel()
    agent = Agent(model)
    agent.on(Webhook("/str"))(lambda event: "as input")
    agent.on(Webhook("/dict"))(lambda event: {"input": "by keyword", "session_id": "s", "user_id": "u"})
    agent.on(Webhook("/none"))(lambda event: None)
    async with served(agent) as service:
        assert (await texts(service, "/str"))["content"] == "as input"
        answer = await texts(service, "/dict")
        assert (answer["content"], answer["session_id"]) == ("by keyword", "s")
        assert await texts(service, "/none") == {"status": "ok"}
    assert [request.messages[-1].content for request in model.requests] == ["as input", "by keyword"]


# --- TriggerEvent


async def test_an_event_has_the_fields_of_the_page_whatever_fired_it() -> None:
    names = [row[0] for row in rows("TriggerEvent")]
    assert names == ["body", "headers", "source", "timestamp", "raw"]
    agent, events = Agent("offline"), list[TriggerEvent]()
    cron = Cron("0 9 * * *")
    for trigger in (Webhook("/github"), cron, EventTrigger("signup")):
        agent.on(trigger)(lambda event: events.append(event))
    before = datetime.now(UTC).timestamp() - 1
    async with served(agent) as service:
        await texts(service, "/github", json={"a": 1}, headers={"X-GitHub-Event": "push"})
        await texts(service, "/github")
        await agent.fire(cron)
        agent.emit("signup", {"name": "Alice"})
    web, empty = events[:2]
    timed, emitted = sorted(events[2:], key=lambda event: event.source)  # two workers: whichever is first
    assert (web.body, web.source) == ({"a": 1}, "POST /github")
    assert isinstance(web.headers, dict) and web.headers["x-github-event"] == web.headers["X-GitHub-Event"] == "push"
    assert json.loads(json.dumps(web.headers))["x-github-event"] == "push"
    assert (web.raw.method, web.raw.body) == ("POST", b'{"a":1}')
    assert (empty.body, timed.body, emitted.body) == (None, None, {"name": "Alice"})
    assert (timed.source, emitted.source) == ("cron(0 9 * * *)", "event(signup)")
    assert [timed.headers, emitted.headers, timed.raw, emitted.raw] == [None] * 4
    assert all(type(event.timestamp) is float and event.timestamp >= before for event in events)
    assert TriggerEvent(*[getattr(web, name) for name in names]).body == {"a": 1}  # in the order of the page


@pytest.mark.parametrize("body", [b"neither JSON nor a form", b"\xff\xfe", b""])
async def test_the_guard_of_the_last_program_holds_for_any_body(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    last = program("With Interfaces", monkeypatch, telegram_interface=None)
    async with served(last.agent) as service:
        answer = await texts(service, "/github", content=body)
    assert answer["content"] == "Summarize this GitHub event for repo unknown"


# --- Cron Jobs


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_cron_job_of_the_page_fires_at_nine_without_a_server(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    noted = program("Cron Jobs", monkeypatch)
    [(_, options)] = noted.serves
    assert options == {"enable_server": False}
    outputs: list[RunOutput] = []
    noted.agent.after_response(outputs.append)

    async def a_day_and_a_bit() -> str | None:
        async with noted.agent.running(**options) as runtime:
            await anyio.sleep(24 * 3600 + 60)
        return runtime.url

    assert run(a_day_and_a_bit, backend=backend, start="2026-03-01T08:59:30+00:00") is None
    assert [output.content for output in outputs] == ["Give me today's summary."] * 2


def test_cron_has_the_parameters_and_defaults_of_the_page() -> None:
    assert parameters("Cron Jobs") == {"schedule": ("str", None), "timezone": ("str", "UTC")}
    job = Cron("0 9 * * *")
    assert (job.schedule, job.timezone) == ("0 9 * * *", "UTC")
    midnight = datetime(2026, 7, 1, tzinfo=UTC).timestamp()
    assert job.next_run(midnight) == midnight + 9 * 3600
    assert Cron("0 9 * * *", timezone="Europe/Oslo").next_run(midnight) == midnight + 7 * 3600
    with pytest.raises(ValueError, match="61 9"):
        Cron("61 9 * * *")


@pytest.mark.parametrize("extra", ["cron", "serve"])
def test_the_extras_of_the_page_exist(extra: str) -> None:
    assert f"'definable[{extra}]'" in PAGE
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert extra in project["optional-dependencies"]
    assert any(line.startswith("croniter") for line in project["dependencies"])
    assert any(line.startswith("watchfiles") for line in project["dependencies"])


# --- Event Triggers


async def test_an_event_is_fired_from_anywhere_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    signup = program("Event Triggers", monkeypatch)  # it emits before anybody serves
    outputs: list[RunOutput] = []
    signup.agent.after_response(outputs.append)
    async with signup.agent.running(enable_server=False):
        assert signup.agent.emit("user_signup", {"name": "Bob"}) is None
        assert outputs == []  # nothing has been waited for
        await anyio.to_thread.run_sync(signup.agent.emit, "user_signup", {"name": "Eve"})
    assert sorted(output.content for output in outputs) == [
        f"Write a welcome message for {name}." for name in ("Alice", "Bob", "Eve")
    ]


# --- Lifecycle Hooks


async def test_the_hooks_of_the_page(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    hooked = program("Lifecycle Hooks", monkeypatch, agent=Agent(OfflineModel(["x" * 60])))
    output = await hooked.agent.arun("hi")
    assert capsys.readouterr().out == f"Run {output.run_id} starting\nRun completed: {'x' * 50}\n"


@pytest.mark.parametrize("parentheses", [False, True])
@pytest.mark.parametrize("is_async", [False, True])
async def test_hooks_are_sync_or_async_with_or_without_parentheses_and_never_fatal(
    parentheses: bool, is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    agent, seen = Agent("offline"), list[Any]()

    def note(value: Any) -> None:
        seen.append(value)
        raise ValueError("of the hook")

    async def note_later(value: Any) -> None:
        note(value)

    hook = note_later if is_async else note
    for point in (agent.before_request, agent.after_response):
        (point() if parentheses else point)(hook)
    assert (await agent.arun("hi")).content == "hi"
    assert [type(each) for each in seen] == [RunContext, RunOutput]
    assert caplog.text.count("ValueError: of the hook") == 2


# --- HTTP Server


async def test_the_endpoints_of_the_page() -> None:
    assert [row[:2] for row in rows("HTTP Server")] == [["POST", "/run"], ["GET", "/health"], ["*", "Webhook paths"]]
    agent = Agent("offline")
    agent.on(Webhook("/hook", method="PUT"))(lambda event: None)
    async with served(agent) as service:
        answer = await texts(service, "/run", json={"input": "hi", "session_id": "s", "user_id": "u"})
        assert (answer["content"], answer["session_id"], answer["user_id"]) == ("hi", "s", "u")
        assert (await service.client.get("/health")).json()["status"] == "ok"
        assert (await service.client.put("/hook")).json() == {"status": "ok"}


async def test_with_auth_everything_but_health_needs_it() -> None:
    agent = Agent("offline", auth=APIKeyAuth(keys={"my-api-key"}))
    agent.on(Webhook("/hook"))(lambda event: None)
    async with served(agent) as service:
        for method, path in [("POST", "/run"), ("POST", "/hook"), ("GET", "/runs"), ("GET", "/sessions/s")]:
            assert (await service.client.request(method, path, json={"input": "hi"})).status_code == 401, path
        assert (await service.client.get("/health")).status_code == 200


# --- Dev Mode


async def test_docs_are_served_in_development_mode_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """That a save restarts the process is in test_dev_reload.py."""
    developed = program("Dev Mode", monkeypatch)
    assert developed.serves == [((), {"dev": True})]
    async with developed.served() as service:
        docs = await service.client.get("/docs", follow_redirects=True)
        assert docs.status_code == 200 and "swagger" in docs.text.lower()
    async with developed.served(dev=False) as service:
        assert (await service.client.get("/docs")).status_code == 404


# --- With Interfaces


async def test_the_last_program_answers_chats_webhooks_and_callers_with_a_key(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with anyio.fail_after(30):
        async with TelegramServer().running() as telegram:
            bot = bot_for(telegram)
            last = program("With Interfaces", monkeypatch, telegram_interface=bot)
            assert last.serves == [((bot,), {"port": 8000})]
            async with last.served() as service:
                telegram.write("hello", chat=7)
                await telegram.until(lambda server: server.sent(7))
                assert telegram.sent(7) == ["hello"]
                answer = await texts(service, "/github", json={"repository": {"name": "definable"}})
                assert answer["content"] == "Summarize this GitHub event for repo definable"
                run_it = {"json": {"input": "hi"}}
                assert (await service.client.post("/run", **run_it)).status_code == 401
                assert (await texts(service, "/run", headers={"X-API-Key": "my-api-key"}, **run_it))["content"] == "hi"
                [job] = [trigger for trigger in last.agent.triggers if isinstance(trigger, Cron)]
                await last.agent.fire(job)
            printed = capsys.readouterr().out
            assert "  <- Run done: Give me a one-sentence status update." in printed
            assert len(re.findall(r"  -> Starting run \w{8}\.\.\.\n", printed)) == 4
            report = service.runtime.report
            assert report is not None and report.clean
            completed = {name: count.completed for name, count in report.sources.items()}
            assert (completed["telegram"], completed["cron"]) == (1, 1) and completed["http"] >= 2


# --- How It Works


def test_an_interface_is_restarted_after_1_to_60_seconds() -> None:
    """That a supervisor does so is in test_supervisor.py."""
    assert "(1s → 60s)" in SECTIONS["How It Works"]
    backoff = Backoff(jitter=0)
    assert [backoff.delay(failures) for failures in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]


async def test_a_runtime_runs_server_interfaces_and_cron_side_by_side() -> None:
    async with TelegramServer().running() as telegram:
        agent = Agent("offline")
        agent.on(Webhook("/x"))(lambda event: None)
        agent.on(Cron("0 9 * * *"))(lambda event: None)
        async with served(agent, bot_for(telegram)) as service:
            assert isinstance(service.runtime, AgentRuntime)
            children = (await service.client.get("/health")).json()["children"]
            assert {"cron", "telegram"} <= children.keys()
            assert all(child["state"] in ("running", "starting") for child in children.values())
        assert service.runtime.report is not None and service.runtime.report.clean


# --- the page as a whole


def sections_with_snippets() -> Iterator[str]:
    return (name for name in SECTIONS if blocks(name, "python"))


def test_every_snippet_of_the_page_has_its_test() -> None:
    source = Path(__file__).read_text()
    for section in sections_with_snippets():
        assert re.search(rf'(program|blocks)\("{re.escape(section)}"', source), section
    imports = set(re.findall(r"^from (\S+) import (.+)$", PAGE, re.MULTILINE))
    for module, names in imports:
        exec(f"from {module} import {names}", {})
