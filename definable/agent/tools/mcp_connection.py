"""One life with an `MCPServer`: connected, lost, connected again; and its tools meanwhile.

The runtime runs an `MCPConnection` for each server of its agents, in its task group, and shows it in `/health`; a run
outside a service opens one for itself. While a server is away its tools are left out, and calls that were under way
come back as failures.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import anyio
from anyio.abc import TaskStatus
from anyio.lowlevel import current_token

from definable.agent.run.context import RunContext
from definable.concurrency.backoff import Backoff
from definable.concurrency.event_loop import plain_errors
from definable.concurrency.isolation import contain_errors, error_text
from definable.concurrency.logs import logger_named
from definable.model.message import ToolDefinition

from .mcp import MCPServer, as_name
from .mcp_content import read_resource, resources_of, shown, told
from .result import ToolResult
from .tool import Tool

if TYPE_CHECKING:
    from mcp import Client

logger: logging.Logger = logger_named(__name__)

MAX_DESCRIPTION = 1_024
"""Characters of a tool's description that the model is shown: the server's author wrote it, and every request pays."""

MAX_TOOLS = 128
"""Of one server that a model is shown; some providers take no more in all."""

CHECK_INTERVAL = 30.0
"""Seconds between looks whether the server is there, and what tools it has."""

BACKOFF = Backoff()
"""Between tries to reach a server."""


class MCPConnection:
    """One life with a server: connected, lost, connected again.

    Args:
        server: Which one.
        serves: Whether runs that are not its own use it, as those of a service do.
    """

    def __init__(self, server: MCPServer, *, serves: bool = False) -> None:
        self.server = server
        self.loop: object = None
        """The event loop that it lives in."""
        self.tools: Mapping[str, Tool] = {}
        """What the model may call now, by its names for them."""
        self.state: str = "starting"
        """As `/health` shows it: `starting`, `running`, `restarting` or `stopped`."""
        self.error: str | None = None
        """Why it is not connected."""
        self._down_since: float | None = None
        self._serves = serves
        self.client: Client | None = None
        """The SDK's, while it is connected."""
        self._look = anyio.Event()

    @property
    def is_well(self) -> bool:
        """Whether it is connected, or lost no longer than its backoff explains."""
        return self._down_since is None or anyio.current_time() - self._down_since <= 2 * BACKOFF.maximum

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Stay connected until cancelled.

        Args:
            task_status: Told when the tools are known, or the first try has failed.
        """
        self.loop, failures, told = current_token().native_token, 0, False

        def tell() -> None:
            nonlocal told
            if not told:
                told = True
                task_status.started()

        if self._serves:
            self.server.serve(self)
        try:
            while True:
                began = anyio.current_time()
                failure = await self._live(tell)
                failures = BACKOFF.failures_after(failures, anyio.current_time() - began)
                delay = self._note(failure, failures)
                tell()
                await anyio.sleep(delay)
        finally:
            self.state, self.tools = "stopped", {}
            if self._serves:
                self.server.serve(None)

    async def call(self, name: str, arguments: dict[str, Any]) -> ToolResult:
        """Have the server call one of its tools; what goes wrong is a result for the model.

        Args:
            name: The server's name for it.
            arguments: As the model gave them; the server checks them.
        """
        server, client = self.server, self.client
        if client is None:
            return ToolResult.failed(f"{server.name} cannot be reached now: {self.error or 'it is not connected'}")
        try:
            with anyio.fail_after(server.timeout):
                return told(await client.call_tool(name, arguments))
        except TimeoutError:
            logger.warning("tool %s of %s timed out after %g s", name, server.name, server.timeout)
            return ToolResult.failed(f"{name} timed out after {server.timeout:g} s")
        except Exception as error:
            self._look.set()  # it may be gone
            logger.warning("tool %s of %s failed: %s", name, server.name, error_text(error))
            return ToolResult.failed(error_text(error))

    async def _live(self, tell: Callable[[], None]) -> Exception:
        """Be connected as long as it lasts; return why it does no longer."""
        try:
            with contain_errors(f"MCP server {self.server.name}"), plain_errors(), anyio.CancelScope() as scope:
                scope.deadline = anyio.current_time() + self.server.connect_timeout
                async with self.server.opened(self._look_now) as client:
                    await self._stay(client, scope, tell)
            return TimeoutError(f"it did not answer within {self.server.connect_timeout:g} s")
        except Exception as error:
            return error
        finally:
            self.client, self.tools = None, {}

    async def _stay(self, client: Client, scope: anyio.CancelScope, tell: Callable[[], None]) -> None:
        """Follow what tools it has, until it is gone."""
        async with anyio.create_task_group() as group:
            while True:
                self._look = anyio.Event()
                self.tools = await self._list(client)
                if self.client is None:
                    self.client, self.state, self._down_since = client, "running", None
                    logger.info("MCP server %s is connected: %d tools", self.server.name, len(self.tools))
                    group.start_soon(self._follow, client)
                    tell()
                scope.deadline = math.inf
                with anyio.move_on_after(CHECK_INTERVAL):
                    await self._look.wait()
                scope.deadline = anyio.current_time() + self.server.connect_timeout

    async def _follow(self, client: Client) -> None:
        """Look again when the server says that its tools have changed; servers of older protocols send it unasked."""
        from mcp.client.subscriptions import ListenNotSupportedError, SubscriptionLost
        from mcp.shared.exceptions import MCPError

        try:
            async with client.listen(tools_list_changed=True) as changes:
                async for _ in changes:
                    self._look.set()
        except (ListenNotSupportedError, MCPError, SubscriptionLost) as error:
            logger.debug("MCP server %s tells of no changes: %s", self.server.name, error)

    async def _list(self, client: Client) -> Mapping[str, Tool]:
        """The tools that it has now."""
        found: list[Any] = []
        page = await client.list_tools()
        found += page.tools
        while page.next_cursor and len(found) < 10 * MAX_TOOLS:
            page = await client.list_tools(cursor=page.next_cursor)
            found += page.tools
        wanted = self.server.tools
        if wanted is not None and (missing := set(wanted) - {tool.name for tool in found}):
            logger.warning("MCP server %s has no tool %s", self.server.name, ", ".join(sorted(missing)))
        allowed = [tool for tool in found if wanted is None or tool.name in wanted]
        if len(allowed) > MAX_TOOLS:
            logger.warning("MCP server %s: %d of %d tools are shown", self.server.name, MAX_TOOLS, len(allowed))
        tools: list[Tool] = [MCPTool(self, tool) for tool in allowed[:MAX_TOOLS]]
        if self.server.resources and client.server_capabilities.resources is not None:
            tools += self._resource_tools(client)
        return {tool.name: tool for tool in tools}

    def _resource_tools(self, client: Client) -> list[Tool]:
        prefix, timeout = self.server.prefix, self.server.timeout

        async def list_documents() -> list[dict[str, str]]:
            """The documents of this server: the URI, the name and the description of each."""
            return await resources_of(client)

        async def read_document(uri: str) -> str | bytes:
            """Read a document of this server.

            Args:
                uri: As the list of documents has it.
            """
            return shown(await read_resource(client, uri))

        named: dict[str, Callable[..., Any]] = {"list_resources": list_documents, "read_resource": read_document}
        return [Tool(function, name=as_name(prefix + name), timeout=timeout) for name, function in named.items()]

    def _look_now(self) -> None:
        self._look.set()

    def _note(self, failure: Exception, failures: int) -> float:
        """Note that it is lost; return the seconds until the next try."""
        delay, reason = BACKOFF.delay(failures), error_text(failure)
        is_known, self.error, self.state = reason == self.error and failures > 1, reason, "restarting"
        if self._down_since is None:
            self._down_since = anyio.current_time()
        level = logging.DEBUG if is_known else logging.ERROR  # once, not at every try
        logger.log(
            level, "MCP server %s is away, and its tools with it: %s; again in %.1f s", self.server.name, reason, delay
        )
        return delay


class MCPTool(Tool):
    """A tool of a server.

    Args:
        connection: Where it is called.
        described: The server's description of it.
    """

    __slots__ = ("_connection", "_remote_name")

    def __init__(self, connection: MCPConnection, described: Any) -> None:
        name = as_name(f"{connection.server.prefix}{described.name}")
        super().__init__(connection.call, name=name)
        self._connection = connection
        self._remote_name: str = described.name
        text = (described.description or described.title or "").strip()
        text = text if len(text) <= MAX_DESCRIPTION else f"{text[:MAX_DESCRIPTION]}..."
        schema: dict[str, Any] = dict(described.input_schema)
        if schema.get("type") != "object":
            schema = {"type": "object"}
        self._definition = ToolDefinition(name, text, {"properties": {}, **schema})

    async def call(self, arguments: str, context: RunContext) -> ToolResult:
        """Call it with a model's arguments; what goes wrong is a result for the model."""
        try:
            given = json.loads(arguments or "{}")
        except ValueError as error:
            return ToolResult.failed(f"Invalid arguments for {self.name}: not valid JSON: {error}")
        if not isinstance(given, dict):
            return ToolResult.failed(f"Invalid arguments for {self.name}: one JSON object is expected")
        return await self._connection.call(self._remote_name, cast("dict[str, Any]", given))


@asynccontextmanager
async def reachable(servers: Iterable[MCPServer], own: Mapping[str, Tool]) -> AsyncGenerator[Mapping[str, Tool]]:
    """An agent's own tools, and those of its servers, while the context is open.

    Servers that no service of this event loop is connected to are connected here.

    Args:
        servers: Which ones.
        own: The agent's own tools; they go before a server's of the same name.
    """
    with plain_errors():
        async with anyio.create_task_group() as group:
            connections: list[MCPConnection] = []
            for server in servers:
                connection = server.connection
                if connection is None:
                    connection = MCPConnection(server)
                    await group.start(connection.run)
                connections.append(connection)
            tools: dict[str, Tool] = {}
            for connection in connections:
                tools |= connection.tools
            yield tools | dict(own)
            group.cancel_scope.cancel()
