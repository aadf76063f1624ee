"""The runtime as a whole: starting, stopping, what is left, and what is said."""

import gc
import logging
import os
import socket
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from loopback.openai_server import Fault, OpenAIServer

from definable.agent import Agent
from definable.agent.interface import (
    Accept,
    BaseInterface,
    InterfaceMessage,
    InterfaceResponse,
    TelegramConfig,
    TelegramInterface,
)
from definable.agent.runtime import AgentRuntime, ShutdownReport
from definable.agent.runtime.settings import ServeSettings
from definable.agent.session import MemorySessionStore
from definable.agent.trigger import Cron, EventTrigger, TriggerEvent, Webhook
from definable.errors import ConfigurationError, EventBusClosed, ServeError
from definable.model import OfflineModel, OpenAIChat
from definable.testing import served

pytestmark = pytest.mark.anyio


def webhook_agent() -> Agent:
    agent = Agent("offline")

    @agent.on(Webhook("/hi"))
    async def hi(event: TriggerEvent) -> str:
        return "hi"

    return agent


async def test_a_task_group_starts_it_and_learns_the_url() -> None:
    agent = webhook_agent()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            url = await group.start(lambda task_status: agent.aserve(host="127.0.0.1", port=0, task_status=task_status))
            assert url.startswith("http://127.0.0.1:")
            assert agent.runtime is not None
            agent.runtime.stop()
    assert agent.runtime is None


async def test_running_gives_the_runtime_and_afterwards_its_report() -> None:
    agent = webhook_agent()
    async with agent.running(host="127.0.0.1", port=0) as runtime:
        assert runtime.url is not None
        assert runtime.report is None
    assert isinstance(runtime.report, ShutdownReport)
    assert runtime.report.clean
    assert list(runtime.report.sources) == ["http", "event", "cron"]


async def test_the_server_starts_when_something_wants_it() -> None:
    assert await has_url(webhook_agent())
    assert await has_url(Agent("offline"))
    with_routes = Agent("offline")
    with_routes.on(EventTrigger("x"))(lambda event: None)
    assert not await has_url(with_routes)
    assert with_routes.blueprint
    assert await has_url(with_routes)


async def has_url(agent: Agent) -> bool:
    async with agent.running(host="127.0.0.1", port=0) as runtime:
        return runtime.url is not None


async def test_enable_server_decides_whatever_is_registered() -> None:
    async with webhook_agent().running(enable_server=False) as runtime:
        assert runtime.url is None
        assert runtime.app is None


async def test_one_agent_is_served_once_at_a_time_and_again_afterwards() -> None:
    agent = webhook_agent()
    async with agent.running(enable_server=False):
        with pytest.raises(ServeError, match="already"):
            async with agent.running(enable_server=False):
                pass
    async with agent.running(enable_server=False) as runtime:
        assert agent.runtime is runtime


async def test_a_busy_port_leaves_nothing_running() -> None:
    opened: list[str] = []

    class Store(MemorySessionStore):
        @asynccontextmanager
        async def open(self) -> AsyncGenerator[None, None]:
            opened.append("store")
            yield

    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        agent = Agent("offline", sessions=Store())
        with pytest.raises(OSError, match=rf"127\.0\.0\.1:{port}"):
            await agent.aserve(host="127.0.0.1", port=port)
    assert opened == []
    assert agent.runtime is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"port": 70000}, "port=70000"),
        ({"shutdown_timeout": -1}, "shutdown_timeout=-1"),
        ({"event_workers": 0}, "event_workers=0"),
        ({"keyfile": "key.pem"}, "certfile"),
        ({"certfile": "/no/such/cert.pem"}, "/no/such/cert.pem"),
    ],
)
async def test_a_wrong_option_is_named_before_anything_starts(options: dict[str, object], message: str) -> None:
    agent = webhook_agent()
    with pytest.raises(ConfigurationError, match=message):
        await agent.aserve(**options)  # type: ignore[arg-type]
    assert agent.runtime is None


async def test_a_wrong_tool_is_named_before_anything_starts() -> None:
    def bad(*args: int) -> None: ...

    with pytest.raises(ConfigurationError, match="bad"):
        await Agent("offline", tools=[bad]).aserve(enable_server=False)


async def test_a_store_that_cannot_open_fails_the_start_plainly() -> None:
    class Broken(MemorySessionStore):
        @asynccontextmanager
        async def open(self) -> AsyncGenerator[None, None]:
            raise OSError("no such disk")
            yield

    agent = Agent("offline", sessions=Broken())
    with pytest.raises(OSError, match="no such disk"):
        await agent.aserve(enable_server=False)
    assert agent.runtime is None


@pytest.mark.parametrize("seconds", [0, 0.1])
async def test_events_from_before_a_start_that_fails_are_handled_once_one_succeeds(seconds: float) -> None:
    agent, handled, databases = Agent("offline"), list[int](), [None, "there"]

    @agent.on(EventTrigger("job"))
    async def job(event: TriggerEvent) -> None:
        handled.append(event.body["n"])

    async def connect() -> None:
        await anyio.sleep(seconds)
        if databases.pop(0) is None:
            raise ConnectionError("no database")

    agent.blueprint.record(lambda state: state.app.before_serving(connect))
    agent.emit("job", {"n": 1})
    agent.emit("job", {"n": 2})
    with pytest.raises(ConnectionError, match="no database"):
        await agent.aserve(host="127.0.0.1", port=0)
    async with agent.running(host="127.0.0.1", port=0, shutdown_timeout=5) as runtime:
        agent.emit("job", {"n": 3})
    assert handled == [1, 2, 3]
    assert runtime.report is not None and runtime.report.clean


async def test_an_error_in_the_body_reaches_the_caller_plain() -> None:
    with pytest.raises(KeyError, match="mine"):
        async with webhook_agent().running(host="127.0.0.1", port=0):
            raise KeyError("mine")


async def test_a_group_of_one_from_the_body_reaches_the_caller_as_it_was_raised() -> None:
    group = ExceptionGroup("mine", [ZeroDivisionError("mine")])
    with pytest.raises(ExceptionGroup) as caught:
        async with Agent("offline").running(enable_server=False):
            raise group
    assert caught.value is group


async def test_a_cancelled_scope_stops_promptly() -> None:
    agent = Agent("offline")
    began, ended = anyio.Event(), anyio.Event()

    @agent.on(EventTrigger("x"))
    async def hang(event: TriggerEvent) -> None:
        began.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    with anyio.fail_after(5), anyio.CancelScope() as scope:
        async with agent.running(enable_server=False) as runtime:
            agent.emit("x")
            await began.wait()
            scope.cancel()
            await anyio.sleep_forever()
    assert ended.is_set()
    assert runtime.report is not None
    assert runtime.report.forced
    assert runtime.report.sources["event"].cancelled == 1
    with pytest.raises(EventBusClosed):
        agent.emit("x")


async def test_stop_may_come_from_another_thread() -> None:
    agent = Agent("offline")
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            await group.start(lambda task_status: agent.aserve(enable_server=False, task_status=task_status))
            assert agent.runtime is not None
            threading.Thread(target=agent.runtime.stop).start()


async def test_stopping_twice_and_after_the_end_does_nothing() -> None:
    agent = Agent("offline")
    async with agent.running(enable_server=False) as runtime:
        runtime.stop()
        runtime.stop()
    runtime.stop()
    assert runtime.report is not None
    assert runtime.report.clean


@pytest.mark.parametrize("force", [False, True])
async def test_a_stop_from_just_before_the_start_is_heard(force: bool) -> None:
    runtime = AgentRuntime(webhook_agent(), (), ServeSettings(host="127.0.0.1", port=0))
    runtime.stop(force)
    with anyio.fail_after(5):
        report = await runtime.run()
    assert (report.clean, report.forced, report.duration) == (True, force, 0)


async def test_a_stop_from_another_thread_is_heard_also_at_the_moment_of_the_start() -> None:
    preempted, started = threading.Event(), threading.Event()

    class Preempted(AgentRuntime):
        """The thread that says stop is interrupted in the middle of it, until the runtime serves."""

        def __setattr__(self, name: str, value: object) -> None:
            if threading.current_thread() is stopper:
                preempted.set()
                started.wait(5)
            super().__setattr__(name, value)

    stopper = threading.Thread(target=lambda: runtime.stop())
    runtime = Preempted(Agent("offline"), (), ServeSettings(enable_server=False))
    stopper.start()
    assert preempted.wait(5)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            await group.start(runtime.run)
            started.set()
    stopper.join()
    assert runtime.report is not None and runtime.report.clean


class HangingStore(MemorySessionStore):
    """Waits for a database that does not answer."""

    def __init__(self) -> None:
        super().__init__()
        self.opening = anyio.Event()

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None, None]:
        self.opening.set()
        await anyio.sleep_forever()
        yield


@pytest.mark.parametrize("force", [False, True])
async def test_a_stop_ends_a_start_that_hangs(force: bool) -> None:
    store = HangingStore()
    agent = Agent("offline", sessions=store)
    agent.on(EventTrigger("job"))(lambda event: None)
    agent.emit("job")
    runtime = AgentRuntime(agent, (), ServeSettings(host="127.0.0.1", port=0))
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(runtime.run)
            await store.opening.wait()
            runtime.stop(force)
    assert runtime.report is not None and runtime.report.forced is force
    assert agent.runtime is None


class StoppingStore(MemorySessionStore):
    """While it opens, somebody stops the runtime; it has opened before the event loop comes to the stop."""

    def __init__(self, stop: Callable[[], object]) -> None:
        super().__init__()
        self._stop = stop

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None, None]:
        self._stop()
        yield


@pytest.mark.parametrize("enable_server", [False, True])
@pytest.mark.parametrize("force", [False, True])
async def test_who_starts_it_hears_of_a_start_that_a_stop_ends_on_its_way(force: bool, enable_server: bool) -> None:
    agent = Agent("offline", sessions=StoppingStore(lambda: runtime.stop(force)))
    settings = ServeSettings(host="127.0.0.1", port=0, enable_server=enable_server)
    runtime = AgentRuntime(agent, (), settings)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            await group.start(runtime.run)
    assert runtime.report is not None and runtime.report.forced is force


async def test_who_starts_it_hears_of_a_stop_from_just_before() -> None:
    runtime = AgentRuntime(Agent("offline"), (), ServeSettings(enable_server=False))
    runtime.stop()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            await group.start(runtime.run)
    assert runtime.report is not None and runtime.report.clean


async def test_what_was_queued_is_finished_within_the_grace() -> None:
    agent = Agent("offline")
    handled: list[int] = []

    @agent.on(EventTrigger("x", max_concurrency=1))
    async def slow(event: TriggerEvent) -> None:
        await anyio.sleep(0.001)
        handled.append(event.body["data"])

    async with agent.running(enable_server=False) as runtime:
        for number in range(50):
            agent.emit("x", number)
    assert handled == list(range(50))
    assert runtime.report is not None
    assert runtime.report.sources["event"].completed == 50


async def test_past_the_grace_the_rest_is_cut_off_and_counted() -> None:
    agent = Agent("offline")

    @agent.on(EventTrigger("x", max_concurrency=2))
    async def hang(event: TriggerEvent) -> None:
        await anyio.sleep_forever()

    async with agent.running(enable_server=False, shutdown_timeout=0.05) as runtime:
        for _ in range(5):
            agent.emit("x")
        await anyio.wait_all_tasks_blocked()
    assert runtime.report is not None
    count = runtime.report.sources["event"]
    assert (count.completed, count.cancelled, count.never_started) == (0, 2, 3)
    assert not runtime.report.clean


async def test_a_thread_that_will_not_end_is_reported() -> None:
    agent = Agent("offline")
    began, release = anyio.Event(), threading.Event()

    @agent.on(EventTrigger("x"))
    def stuck(event: TriggerEvent) -> None:
        anyio.from_thread.run_sync(began.set)
        release.wait(30)

    try:
        async with agent.running(enable_server=False, shutdown_timeout=0.05) as runtime:
            agent.emit("x")
            await began.wait()
    finally:
        release.set()
    assert runtime.report is not None
    assert [name.rpartition(".")[2] for name in runtime.report.stuck_threads] == ["stuck"]
    assert not runtime.report.clean


async def test_a_model_that_two_services_share_is_closed_with_the_last_of_them() -> None:
    async with OpenAIServer().running() as server:
        server.play(Fault("hang"))
        model = OpenAIChat("gpt-4o", api_key=server.key, base_url=server.url, max_retries=0)
        one, other = Agent(model), Agent(model)

        @other.on(EventTrigger("ask"))
        async def ask(event: TriggerEvent) -> str:
            return "hi"

        with anyio.fail_after(10):
            async with other.running(enable_server=False, shutdown_timeout=0) as runtime:
                async with one.running(enable_server=False):
                    other.emit("ask")
                    while not server.received:
                        await anyio.sleep(0.01)
                await anyio.wait_all_tasks_blocked()
                assert (server.connections, runtime.registry.active_count) == (1, 1)
            await server.idle()


async def test_nothing_is_left_after_serving() -> None:
    agent = webhook_agent()
    agent.on(Cron("* * * * *"))(lambda event: None)
    async with served(agent) as service:  # once, for what loads late and stays
        assert (await service.client.post("/hi")).status_code == 200
    gc.collect()
    before = set(os.listdir("/proc/self/fd")), set(threading.enumerate())
    for _ in range(3):
        async with served(agent) as service:
            assert (await service.client.post("/hi")).status_code == 200
    gc.collect()
    assert set(os.listdir("/proc/self/fd")) == before[0]
    ours = [thread for thread in set(threading.enumerate()) - before[1] if "Trio" not in thread.name]
    assert ours == []


async def test_the_banner_names_what_is_served_and_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    agent = webhook_agent()
    agent.on(Cron("0 9 * * *", timezone="Europe/Oslo"))(lambda event: None)
    agent.on(EventTrigger("user.*"))(lambda event: None)
    with caplog.at_level(logging.INFO, "definable"):
        async with agent.running(host="0.0.0.0", port=0) as runtime:
            pass
    banner = caplog.messages[0]
    for part in (
        "agent on offline",
        str(runtime.url),
        "POST /hi",
        "0 9 * * *  next",
        "user.*",
        "auth     none",
        "curl",
    ):
        assert part in banner
    assert "CE" in banner  # the job's own zone
    assert [message for message in caplog.messages if "anybody may use this agent" in message]
    assert any("stopped cleanly" in message for message in caplog.messages)


async def test_a_loopback_address_needs_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    async with webhook_agent().running(host="127.0.0.1", port=0):
        pass
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_webhooks_that_no_server_serves_are_warned_of_at_once(caplog: pytest.LogCaptureFixture) -> None:
    config = TelegramConfig(bot_token=f"1:{'x' * 35}", mode="webhook", webhook_url="https://bot.example.com")
    bot = TelegramInterface(config.with_updates(base_url="http://127.0.0.1:1"))
    async with webhook_agent().running(bot, enable_server=False):
        pass
    assert "none will come to the webhooks" in caplog.text
    assert "/webhook/telegram" in caplog.text
    caplog.clear()
    async with webhook_agent().running(bot, host="127.0.0.1", port=0):
        pass
    assert "none will come" not in caplog.text


async def test_a_model_without_its_key_is_warned_of_at_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    async with Agent("openai/gpt-4o").running(enable_server=False):
        pass
    assert any("has no API key" in message for message in caplog.messages)


async def test_tls_serves_with_certificate_and_key_files(tmp_path: Path) -> None:
    import httpx2
    import trustme

    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    certfile, keyfile = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.private_key_pem.write_to_path(keyfile)
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(certfile, append=True)
    import ssl

    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with webhook_agent().running(host="127.0.0.1", port=0, certfile=certfile, keyfile=keyfile) as runtime:
        assert runtime.url is not None
        assert runtime.url.startswith("https://")
        async with httpx2.AsyncClient(verify=context) as client:
            assert (await client.post(f"{runtime.url}/hi")).json()["content"] == "hi"


async def test_a_client_that_says_goodbye_over_tls_cancels_its_run_though_it_keeps_the_connection(
    tmp_path: Path,
) -> None:
    import ssl

    import trustme
    from anyio.streams.tls import TLSStream

    authority, context = trustme.CA(), ssl.create_default_context()
    authority.configure_trust(context)
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(tmp_path / "all.pem")
    model = OfflineModel(latency=60)
    with anyio.fail_after(10):
        async with Agent(model).running(
            host="127.0.0.1", port=0, enable_server=True, certfile=tmp_path / "all.pem", shutdown_timeout=0
        ) as runtime:
            assert runtime.url is not None
            tcp = await anyio.connect_tcp("127.0.0.1", int(runtime.url.rpartition(":")[2]))
            async with tcp:
                stream = await TLSStream.wrap(tcp, hostname="localhost", ssl_context=context)
                head = "POST /run HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
                await stream.send(f'{head}content-length: 14\r\n\r\n{{"input":"hi"}}'.encode())
                while not model.requests:
                    await anyio.sleep(0.01)
                with anyio.fail_after(5):
                    await stream.unwrap()  # until the server's own goodbye
                assert runtime.registry.active_count == 0


class Echo(BaseInterface):
    """Says one thing, and remembers what comes back."""

    def __init__(self) -> None:
        super().__init__(collect=0)
        self.answers: list[str | None] = []
        self.said = anyio.Event()

    async def receive(self, accept: Accept) -> None:
        await accept(InterfaceMessage("echo", "ann", "room", "1", text="hello"))
        self.said.set()
        await anyio.sleep_forever()

    async def send(self, message: InterfaceMessage, response: InterfaceResponse) -> None:
        self.answers.append(response.content)


async def test_an_interface_is_served_and_its_accepted_messages_are_answered_over_a_stop() -> None:
    echo = Echo()
    agent = Agent(OfflineModel(latency=0.05))
    async with agent.running(echo, enable_server=False) as runtime:
        await echo.said.wait()
    assert echo.answers == ["hello"]
    assert runtime.report is not None
    assert runtime.report.sources["Echo"].completed == 1


async def test_fire_fires_a_cron_job_by_hand() -> None:
    agent = Agent("offline")
    fired: list[str] = []
    job = Cron("0 0 1 1 *")

    @agent.on(job)
    async def new_year(event: TriggerEvent) -> None:
        fired.append(event.source)

    with pytest.raises(ServeError):
        await agent.fire(job)
    async with agent.running(enable_server=False):
        await agent.fire(job)
        with pytest.raises(ConfigurationError):
            await agent.fire(Cron("* * * * *"))
    assert fired == ["cron(0 0 1 1 *)"]


async def test_fire_refuses_a_webhook_and_a_stop_that_has_begun() -> None:
    agent = Agent("offline")
    hook, job, told = Webhook("/x"), Cron("0 0 1 1 *", overlap="queue"), anyio.Event()
    late: list[bool] = []

    @agent.on(hook)
    async def on_request(event: TriggerEvent) -> None: ...

    @agent.on(job)
    async def new_year(event: TriggerEvent) -> None:
        if not late:
            late.append(True)
            await told.wait()
            await agent.fire(job)  # what was accepted may fire one more

        else:
            late.append(False)

    async with agent.running(port=0, host="127.0.0.1") as runtime:
        with pytest.raises(ConfigurationError, match="cannot be fired by hand: send it a request"):
            await agent.fire(hook)
        await agent.fire(job)
        while not late:
            await anyio.sleep(0.001)
        runtime.stop()
        while not runtime.draining:
            await anyio.sleep(0.001)
        with pytest.raises(EventBusClosed, match="the agent is stopping: the trigger was not fired"):
            await agent.fire(job)
        told.set()
    assert late == [True, False]


def test_serve_in_a_running_event_loop_says_what_to_write_instead() -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match=r"await agent\.aserve"):
            Agent("offline").serve()

    anyio.run(main)


def test_serve_refuses_an_unknown_backend() -> None:
    with pytest.raises(ConfigurationError, match="curio"):
        Agent("offline").serve(backend="curio")  # type: ignore[arg-type]


def test_a_runtime_of_its_own_is_public() -> None:
    assert isinstance(AgentRuntime(Agent("offline")), AgentRuntime)


async def test_an_interface_may_bring_an_agent_of_its_own() -> None:
    echo = Echo()
    echo.agent = Agent(OfflineModel("from another"))
    async with Agent("offline").running(echo, enable_server=False):
        await echo.said.wait()
    assert echo.answers == ["from another"]
