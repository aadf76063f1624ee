"""`MCPServer`: tools of real servers, one of the SDK's own over HTTP, one over standard input and output."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from queue import Queue
from typing import Any
from urllib.parse import parse_qs

import anyio
import httpx2
import pytest

from definable.agent import Agent, MCPServer
from definable.agent.tools import mcp_connection
from definable.agent.tools.mcp_content import told
from definable.agent.trigger import TriggerEvent, Webhook
from definable.errors import ConfigurationError, MissingExtra, ModelConnectionError
from definable.model import Image, Message, ModelReply, ModelRequest, OfflineModel, ToolCall

pytestmark = [
    pytest.mark.anyio,
    # The SDK closes a response and leaves the loop over its events by `return`:
    # https://github.com/modelcontextprotocol/python-sdk/pull/1271
    pytest.mark.filterwarnings("ignore:Async generator .* was garbage collected:ResourceWarning"),
]

STDIO = Path(__file__).parents[1] / "loopback" / "mcp_stdio.py"
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def short_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcp_connection, "BACKOFF", replace(mcp_connection.BACKOFF, initial=0.05, maximum=0.5))


class ServedTools:
    """A server of the SDK's own, over streamable HTTP in a thread."""

    def __init__(self) -> None:
        self.headers: list[Any] = []
        self.cancelled = threading.Event()
        self.called = threading.Event()
        self.port = 0

    def app(self) -> Any:
        from mcp.server import MCPServer as Server
        from mcp.server.mcpserver import Image
        from mcp.server.mcpserver.prompts.base import UserMessage

        server = Server("demo")

        @server.tool()
        def add(first: int, second: int) -> int:
            """Add two numbers."""
            return first + second

        @server.tool()
        async def slow() -> str:
            self.called.set()
            try:
                await anyio.sleep(30)
            finally:
                self.cancelled.set()
            return "late"

        @server.tool()
        def chart() -> Any:
            return Image(data=PNG, format="png")

        @server.tool()
        def fail() -> str:
            raise ValueError("no luck")

        @server.resource("notes://today", description="What is to be done")
        def today() -> str:
            return "water the plants"

        @server.resource("notes://picture", mime_type="image/png")
        def picture() -> bytes:
            return PNG

        @server.prompt()
        def likeness() -> Any:
            return [UserMessage(Image(data=PNG, format="png").to_image_content())]

        @server.prompt()
        def greeting(name: str) -> str:
            return f"Greet {name}."

        return self.guarded(server.streamable_http_app())

    def guarded(self, app: Any) -> Any:
        """The app behind what asks for a token; this one asks for none."""
        return app

    @contextmanager
    def running(self, port: int = 0) -> Generator[str]:
        import uvicorn

        begun: Queue[uvicorn.Server] = Queue()

        def run() -> None:
            app = self.app()  # here: what it makes of anyio's belongs to this thread's event loop

            async def noting(scope: Any, receive: Any, send: Any) -> None:
                if scope["type"] == "http":
                    self.headers.append({name.decode(): value.decode() for name, value in scope["headers"]})
                await app(scope, receive, send)

            options: Any = {"log_level": "critical", "ws": "none", "timeout_graceful_shutdown": 1}
            server = uvicorn.Server(uvicorn.Config(noting, port=port, **options))
            begun.put(server)
            server.run()

        thread = threading.Thread(target=run)
        thread.start()
        server = begun.get(timeout=30)
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            self.port = server.servers[0].sockets[0].getsockname()[1]
            yield f"http://127.0.0.1:{self.port}/mcp"
        finally:
            server.should_exit = True
            thread.join()


class GuardedTools(ServedTools):
    """The same, and an authorization server beside it: client credentials for a token (RFC 6749, 8414 and 9728)."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.origin = f"http://127.0.0.1:{port}"
        self.tokens: list[str] = []
        self.asked: list[str] = []

    def guarded(self, app: Any) -> Any:
        from starlette.requests import Request
        from starlette.responses import JSONResponse

        about = {"/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/mcp"}

        async def guard(scope: Any, receive: Any, send: Any) -> None:
            path, answer = scope.get("path"), None
            if path in about:
                answer = JSONResponse({"resource": f"{self.origin}/mcp", "authorization_servers": [self.origin]})
            elif path == "/.well-known/oauth-authorization-server":
                urls = {"authorization_endpoint": f"{self.origin}/authorize", "token_endpoint": f"{self.origin}/token"}
                kinds = {"response_types_supported": ["code"], "grant_types_supported": ["client_credentials"]}
                answer = JSONResponse({"issuer": self.origin, **urls, **kinds})
            elif path == "/token":
                form = parse_qs((await Request(scope, receive).body()).decode())
                self.asked += form["grant_type"]
                self.tokens.append(f"token-{len(self.tokens)}")
                answer = JSONResponse({"access_token": self.tokens[-1], "token_type": "Bearer", "expires_in": 3_600})
            elif scope["type"] == "http" and self.headers[-1].get("authorization") not in [
                f"Bearer {token}" for token in self.tokens[-1:]
            ]:
                where = f'Bearer resource_metadata="{self.origin}/.well-known/oauth-protected-resource/mcp"'
                answer = JSONResponse({"error": "invalid_token"}, 401, {"WWW-Authenticate": where})
            await (answer or app)(scope, receive, send)

        return guard


class KeptTokens:
    """Where an OAuth client of the SDK keeps what it has: here in memory."""

    def __init__(self) -> None:
        self.tokens: Any = None
        self.client_info: Any = None

    async def get_tokens(self) -> Any:
        return self.tokens

    async def set_tokens(self, tokens: Any) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> Any:
        return self.client_info

    async def set_client_info(self, client_info: Any) -> None:
        self.client_info = client_info


def calls(*names: str, **arguments: Any) -> ModelReply:
    return ModelReply(tool_calls=tuple(ToolCall(name, arguments) for name in names))


def names_of(request: ModelRequest) -> list[str]:
    return sorted(tool.name for tool in request.tools)


def stdio(tmp_path: Path, tools: str, **options: Any) -> MCPServer:
    file = tmp_path / "tools"
    file.write_text(tools)
    return MCPServer(command=[sys.executable, str(STDIO), str(file)], name="files", **options)


async def test_a_run_outside_a_service_connects_for_itself() -> None:
    served = ServedTools()
    with anyio.fail_after(50), served.running() as url:
        model = OfflineModel([calls("demo_add", first=2, second=3), "It is 5."])
        agent = Agent(model, tools=[MCPServer(url, name="demo", headers={"x-own": "yes"})])
        output = await agent.arun("2 + 3?")
        assert (output.content, output.tool_calls[0].result) == ("It is 5.", "5")
        assert names_of(model.requests[0]) == ["demo_add", "demo_chart", "demo_fail", "demo_slow"]
        [add] = [tool for tool in model.requests[0].tools if tool.name == "demo_add"]
        assert add.description == "Add two numbers."
        assert add.parameters["required"] == ["first", "second"]
        assert {headers["x-own"] for headers in served.headers} == {"yes"}


async def test_what_goes_wrong_is_told_to_the_model() -> None:
    with anyio.fail_after(50), ServedTools().running() as url:
        script = [calls("demo_fail", "demo_add", "demo_chart"), "sorry"]
        server = MCPServer(url, name="demo", tools=["add", "fail", "chart"])
        output = await Agent(OfflineModel(script), tools=[server]).arun("hi")
        failed, invalid, chart = output.tool_calls
        assert failed.result == "Error executing tool fail"
        assert failed.error is not None
        assert "first" in invalid.result
        assert invalid.error is not None
        assert (chart.result, chart.error) == ("an image", None)
        shown = [image for message in output.messages for image in message.images]
        assert [image.data for image in shown] == [PNG]


async def test_tools_are_filtered_and_named() -> None:
    with anyio.fail_after(50), ServedTools().running() as url:

        def add() -> str:
            return "mine"

        model = OfflineModel([calls("add"), "done"])
        agent = Agent(model, tools=[MCPServer(url, prefix="", tools=["add", "fail", "nobody"]), add])
        output = await agent.arun("hi")
        assert names_of(model.requests[0]) == ["add", "fail"]
        assert output.tool_calls[0].result == "mine"  # a tool of the agent's own goes before


async def test_a_token_is_fetched_by_oauth_and_fetched_anew_when_it_is_refused() -> None:
    from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider

    with anyio.fail_after(50), socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        listener.close()
        served = GuardedTools(port)
        with served.running(port) as url:
            refused = await Agent(OfflineModel("no tools"), tools=[MCPServer(url, name="demo")]).arun("?")
            assert refused.content == "no tools" and not served.asked
            kept = KeptTokens()
            for count in (1, 2):
                auth = ClientCredentialsOAuthProvider(url, kept, "me", "secret", issuer=served.origin)
                server = MCPServer(url, name="demo", auth=auth, headers={"X-Tenant": "7"})
                model = OfflineModel([calls("demo_add", first=1, second=2), "3"])
                output = await Agent(model, tools=[server]).arun("?")
                assert [call.result for call in output.tool_calls] == ["3"]
                assert served.asked == ["client_credentials"] * count
                assert served.headers[-1]["x-tenant"] == "7"
                served.tokens.append("all others are void")


async def test_resources_and_prompts_are_read_in_a_service_and_outside() -> None:
    served = ServedTools()
    with anyio.fail_after(50), served.running() as url:
        server = MCPServer(url, name="demo", tools=["add"], resources=True)
        script = [calls("demo_list_resources"), calls("demo_read_resource", uri="notes://picture"), "done"]
        model = OfflineModel([*script, calls("demo_read_resource", uri="notes://gone"), "done"])
        agent = Agent(model, tools=[server])

        async def look() -> None:
            assert await server.read_resource("notes://today") == "water the plants"
            assert await server.read_resource("notes://picture") == PNG
            listed = {each["uri"]: each for each in await server.list_resources()}
            assert listed["notes://today"]["description"] == "What is to be done"
            assert await server.prompt("greeting", name="Ann") == (Message("user", "Greet Ann."),)
            assert await server.prompt("likeness") == (Message("user", images=(Image(data=PNG),)),)
            with pytest.raises(ConnectionError, match="MCP server demo: "):
                await server.read_resource("notes://gone")

        await look()
        output = await agent.arun("?")
        assert names_of(model.requests[0]) == ["demo_add", "demo_list_resources", "demo_read_resource"]
        assert "notes://today" in output.tool_calls[0].result
        assert [image.data for image in output.tool_calls[1].media] == [PNG]
        async with agent.running(enable_server=False):
            begun = len(served.headers)
            await look()
            assert all("initialize" not in each.get("mcp-method", "") for each in served.headers[begun:])
            assert (await agent.arun("?")).tool_calls[0].error is not None
    with pytest.raises(ConnectionError), anyio.fail_after(50):
        await MCPServer(url).read_resource("notes://today")


ROUNDS = int(os.environ.get("DEFINABLE_MCP_ROUNDS", "2"))
"""How often the servers go away and come back."""


async def test_runs_go_on_while_servers_come_and_go(tmp_path: Path) -> None:
    """Both transports: a run never fails, tools come back, and `/health` follows."""
    with anyio.fail_after(30 + 20 * ROUNDS), socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        listener.close()
        program = stdio(tmp_path, "say die")
        agent = Agent(OfflineModel(play_all), tools=[MCPServer(f"http://127.0.0.1:{port}/mcp", name="web"), program])
        stopped, made = anyio.Event(), 0

        async def keep_running() -> None:
            nonlocal made
            while not stopped.is_set():
                output = await agent.arun("?")
                assert output.content == "done"
                assert {call.name for call in output.tool_calls} <= {"web_add", "files_say"}
                made += 1
                await anyio.sleep(0.01)

        async with agent.running(enable_server=False) as runtime, anyio.create_task_group() as group:

            async def until(**states: str) -> None:
                while any(runtime.health()[1]["children"][name]["state"] != state for name, state in states.items()):
                    await anyio.sleep(0.01)

            group.start_soon(keep_running)
            for _ in range(ROUNDS):
                with ServedTools().running(port):
                    await until(web="running", files="running")
                    begun = made
                    while made < begun + 2:
                        await anyio.sleep(0.01)
                    assert program.connection is not None
                    assert (await program.connection.call("die", {})).error is not None
                await until(web="restarting")
            stopped.set()
        assert made >= 2 * ROUNDS
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("mcp")]


def play_all(request: ModelRequest) -> ModelReply | str:
    """Call each harmless tool that is there once, then be done."""
    if request.messages[-1].role == "tool":
        return "done"
    known = {"web_add": {"first": 1, "second": 2}, "files_say": {"text": "hi"}}
    made = [ToolCall(name, known[name]) for name in names_of(request) if name in known]
    return ModelReply(tool_calls=tuple(made)) if made else "done"


async def test_a_call_has_a_bound_and_its_end_reaches_the_server() -> None:
    served = ServedTools()
    with anyio.fail_after(50), served.running() as url:
        server = MCPServer(url, name="demo", timeout=0.3)
        output = await Agent(OfflineModel([calls("demo_slow"), "sorry"]), tools=[server]).arun("hi")
        assert output.tool_calls[0].result == "slow timed out after 0.3 s"
        await anyio.to_thread.run_sync(served.cancelled.wait, 20)
        assert served.cancelled.is_set()


async def test_an_error_of_the_run_comes_as_it_is() -> None:
    with anyio.fail_after(50), ServedTools().running() as url:
        with pytest.raises(ModelConnectionError, match="away"):
            await Agent(OfflineModel(ModelConnectionError("away")), tools=[MCPServer(url)]).arun("hi")


async def test_a_service_keeps_its_connection_and_shows_it() -> None:
    served = ServedTools()
    with anyio.fail_after(50), served.running() as url:
        model = OfflineModel([calls("demo_add", first=1, second=1), "2", calls("demo_slow"), "never"])
        server = MCPServer(url, name="demo")
        agent = Agent(model, tools=[server])

        @agent.on(Webhook("/ask"))
        async def on_ask(event: TriggerEvent) -> str:
            return "go"

        async with agent.running(host="127.0.0.1", port=0, shutdown_timeout=1) as runtime:
            async with httpx2.AsyncClient(base_url=runtime.url or "", timeout=30) as client:
                assert (await client.get("/health")).json()["children"]["demo"] == {"state": "running"}
                begun = len(served.headers)
                assert (await client.post("/ask", json={})).json()["content"] == "2"
                assert len(served.headers) - begun <= 2  # the call, and no handshake
                async with anyio.create_task_group() as group:
                    group.start_soon(client.post, "/ask")
                    await anyio.to_thread.run_sync(served.called.wait, 20)
                    runtime.stop()  # with a call under way, which the stop cuts off
        assert server.connection is None
        assert runtime.report is not None
        assert not runtime.report.clean


async def test_a_server_that_goes_away_comes_back() -> None:
    served = ServedTools()
    with anyio.fail_after(50):
        model = OfflineModel(lambda request: "tools: " + " ".join(names_of(request)))
        server: MCPServer | None = None
        with served.running() as url:
            server = MCPServer(url, name="demo", tools=["add"])
            agent = Agent(model, tools=[server])
            runtime_context = agent.running(host="127.0.0.1", port=0)
            runtime = await runtime_context.__aenter__()
        try:
            connection = server.connection
            assert connection is not None
            async with httpx2.AsyncClient(base_url=runtime.url or "", timeout=30) as client:
                await connection.call("add", {})  # at the latest now it is known
                while (await client.get("/health")).json()["children"]["demo"] != {"state": "restarting"}:
                    await anyio.sleep(0.01)
                assert (await client.get("/health")).status_code == 200  # not for long enough
                assert (await agent.arun("?")).content == "tools: "
                assert "cannot be reached now" in (await connection.call("add", {})).content
                with ServedTools().running(served.port):
                    while (await client.get("/health")).json()["children"]["demo"] != {"state": "running"}:
                        await anyio.sleep(0.01)
                    assert (await agent.arun("?")).content == "tools: demo_add"
        finally:
            await runtime_context.__aexit__(None, None, None)


async def test_a_program_is_started_again_when_it_dies_in_a_call(tmp_path: Path) -> None:
    with anyio.fail_after(50):
        server = stdio(tmp_path, "say die")
        model = OfflineModel([calls("files_say", text="hi"), "1", calls("files_die"), "2", calls("files_say"), "3"])
        agent = Agent(model, tools=[server])
        async with agent.running(enable_server=False) as runtime:
            said = (await agent.arun("?")).tool_calls[0].result.split(" ", 2)
            assert (said[0], json.loads(said[2])) == ("say", {"text": "hi"})
            assert (await agent.arun("?")).tool_calls[0].error is not None
            [connection] = runtime.mcp_connections
            while connection.error is None or connection.state != "running":
                await anyio.sleep(0.01)
            again = (await agent.arun("?")).tool_calls[0].result.split(" ", 2)
            assert (again[0], again[1] != said[1]) == ("say", True)


async def test_changes_of_the_tools_are_followed(tmp_path: Path) -> None:
    with anyio.fail_after(50):
        model = OfflineModel([calls("files_grow"), "1", "2"])
        agent = Agent(model, tools=[stdio(tmp_path, "grow")])
        async with agent.running(enable_server=False) as runtime:
            await agent.arun("?")
            while len(runtime.mcp_connections[0].tools) < 2:
                await anyio.sleep(0.01)
            await agent.arun("?")
            assert names_of(model.requests[-1]) == ["files_grow", "files_more"]


async def test_a_service_starts_without_its_server_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with anyio.fail_after(50):
        agent = Agent("offline", tools=[MCPServer(command=["/nowhere/at-all"], name="lost")])
        async with agent.running(enable_server=False) as runtime:
            assert (await agent.arun("hello")).content == "hello"
            _, document = runtime.health()
            assert document["children"]["lost"] == {"state": "restarting"}
        assert "MCP server lost is away, and its tools with it" in caplog.text


async def test_a_server_that_never_answers_holds_up_nothing(tmp_path: Path) -> None:
    with anyio.fail_after(50):
        silent = MCPServer(command=[sys.executable, "-c", "import time; time.sleep(60)"], connect_timeout=0.5)
        output = await Agent("offline", tools=[silent]).arun("hello")
        assert output.content == "hello"


def test_wrong_arguments_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong: list[dict[str, Any]] = [
        {},
        {"url": "http://x", "command": ["y"]},
        {"url": "ftp://x"},
        {"command": "python -m server"},
        {"command": []},
        {"url": "http://x", "tools": "add"},
        {"url": "http://x", "timeout": 0},
        {"command": ["y"], "auth": httpx2.BasicAuth("a", "b")},
    ]
    for arguments in wrong:
        with pytest.raises(ConfigurationError):
            MCPServer(**arguments)
    assert MCPServer("https://tools.example.com/mcp").name == "tools_example_com"
    monkeypatch.setattr("definable.agent.tools.mcp.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"definable\[mcp\]"):
        MCPServer("http://x")


def test_a_result_is_told_as_text() -> None:
    from mcp.types import CallToolResult, ImageContent, TextContent

    image = ImageContent(type="image", data=b64encode(PNG).decode(), mime_type="image/png")
    result = told(CallToolResult(content=[TextContent(type="text", text="a"), image]))
    assert (result.content, [each.data for each in result.media]) == ("a", [PNG])
    assert told(CallToolResult(content=[], structured_content={"a": 1})).content == '{"a": 1}'
    assert told(CallToolResult(content=[])).content == "done"
    assert told(CallToolResult(content=[], is_error=True)).error is not None
