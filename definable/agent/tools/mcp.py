"""`MCPServer`: where a server of the Model Context Protocol is, and which of its tools an agent may call.

On the official SDK, over streamable HTTP or as a child process. `mcp_connection.py` lives with it.
https://modelcontextprotocol.io/specification
"""

from __future__ import annotations

import math
import re
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import anyio
from anyio.lowlevel import current_token

from definable.concurrency.event_loop import plain_errors
from definable.concurrency.isolation import error_text
from definable.errors import ConfigurationError, MissingExtra
from definable.model.message import Message

from .mcp_content import read_resource, resources_of, told_blocks

if TYPE_CHECKING:
    import httpx2
    from mcp import Client

    from .mcp_connection import MCPConnection

_NOT_IN_A_NAME = re.compile(r"[^a-zA-Z0-9_-]+")


class MCPServer:
    """A server of the Model Context Protocol whose tools an agent may call: `Agent(tools=[MCPServer("https://...")])`.

    Args:
        url: Where it answers over streamable HTTP.
        command: Or the program to start, which speaks over its standard input and output, with its arguments.
        env: Environment variables of the program, beside the few that the SDK hands on.
        cwd: The program's directory.
        headers: Sent with every HTTP request, such as `Authorization`.
        auth: Of the HTTP requests: an `Auth` of httpx2, such as the SDK's OAuth (`mcp.client.auth.OAuthClientProvider`,
            or for machines `ClientCredentialsOAuthProvider`), which keeps its tokens where you say.
        name: Stands before the name of each tool, in logs and in `/health`; made from URL or program when None.
        prefix: What stands before the name of each tool in place of the name and an underscore; "" for nothing.
        tools: The tools that the model may call, by the server's names; all when None.
        resources: Whether the model gets two tools more, which list and read the server's resources.
        timeout: Seconds that a call may take.
        connect_timeout: Seconds that the server may take to say what tools it has.

    Raises:
        ConfigurationError: Not exactly one of URL and command, or an argument is out of range.
        MissingExtra: The extra `mcp` is not installed.

    Example:
        >>> MCPServer(command=["mcp-server-time"]).name
        'mcp-server-time'
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        command: Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        headers: Mapping[str, str] | None = None,
        auth: httpx2.Auth | None = None,
        name: str | None = None,
        prefix: str | None = None,
        tools: Collection[str] | None = None,
        resources: bool = False,
        timeout: float = 30.0,
        connect_timeout: float = 30.0,
    ) -> None:
        if (url is None) == (command is None):
            raise ConfigurationError("an MCPServer needs exactly one of url and command=")
        if url is not None and not url.startswith(("http://", "https://")):
            raise ConfigurationError(f'an MCPServer\'s URL is like "https://host/mcp", not {url!r}')
        if auth is not None and command is not None:
            raise ConfigurationError("auth= is for an MCPServer with a URL: a program takes its secrets from env=")
        if isinstance(command, str) or command == []:
            raise ConfigurationError(f'command=["program", "argument"], not {command!r}')
        if isinstance(tools, str):
            raise ConfigurationError(f"tools is a list of names, not {tools!r}")
        for seconds in (timeout, connect_timeout):
            if not (seconds > 0 and math.isfinite(seconds)):
                raise ConfigurationError(f"an MCPServer's time-outs are seconds above 0, not {seconds!r}")
        if find_spec("mcp") is None:
            raise MissingExtra("MCPServer needs mcp: pip install 'definable[mcp]'")
        self.url = url
        self.command: Sequence[str] = tuple(command or ())
        self.env = env
        self.cwd = cwd
        self.headers = headers
        self.auth = auth
        self.name: str = as_name(name or (urlsplit(url).hostname or "" if url else Path(self.command[0]).name)) or "mcp"
        self.prefix: str = f"{self.name}_" if prefix is None else prefix
        self.tools: Collection[str] | None = tools
        self.resources = resources
        self.timeout = timeout
        self.connect_timeout = connect_timeout
        self._served: MCPConnection | None = None

    def __repr__(self) -> str:
        return f"<MCPServer {self.name!r}>"

    @property
    def connection(self) -> MCPConnection | None:
        """That of the service which runs in this event loop."""
        served = self._served
        return served if served is not None and served.loop is current_token().native_token else None

    @asynccontextmanager
    async def opened(self, look: Callable[[], None]) -> AsyncGenerator[Client]:
        """The SDK's client, connected.

        Args:
            look: Called when the server has closed the connection, or says that its tools have changed.
        """
        from mcp import Client, StdioServerParameters  # the extra
        from mcp.client.stdio import stdio_client
        from mcp.client.streamable_http import streamable_http_client
        from mcp.shared._httpx_utils import create_mcp_http_client

        @asynccontextmanager
        async def transport() -> AsyncGenerator[Any]:
            if self.url is None:
                program, *arguments = self.command
                parameters = StdioServerParameters(
                    command=program, args=arguments, env=dict(self.env) if self.env else None, cwd=self.cwd
                )
                async with stdio_client(parameters) as (read, write):
                    yield _Watched(read, look), write
            else:
                async with (
                    create_mcp_http_client(dict(self.headers or {}), auth=self.auth) as http,
                    streamable_http_client(self.url, http_client=http) as (read, write),
                ):
                    yield read, write

        async def on_message(message: Any) -> None:
            if type(message).__name__ == "ToolListChangedNotification":
                look()

        async with Client(transport(), message_handler=on_message, cache=None) as client:
            yield client

    async def read_resource(self, uri: str) -> str | bytes:
        """Read one of the server's resources, over the service's connection, or one that is made for it.

        Args:
            uri: As `list_resources` has it.

        Returns:
            Its text; the bytes of one that is none.

        Raises:
            ConnectionError: The server cannot be reached, or not in time, or refuses.
        """
        async with self._asked() as client:
            return await read_resource(client, uri)

    async def list_resources(self) -> list[dict[str, str]]:
        """The server's resources: of each the `uri`, the `name`, and what it says of itself.

        Raises:
            ConnectionError: The server cannot be reached, or not in time, or refuses.
        """
        async with self._asked() as client:
            return await resources_of(client)

    async def prompt(self, name: str, /, **arguments: str) -> tuple[Message, ...]:
        """One of the server's prompts, filled in: messages to begin a run or a conversation with.

        Args:
            name: The server's name for it.
            arguments: What it is filled in with.

        Raises:
            ConnectionError: The server cannot be reached, or not in time, or refuses.
        """
        async with self._asked() as client:
            result = await client.get_prompt(name, arguments)
        messages: list[Message] = []
        for each in result.messages:
            text, images = told_blocks([each.content])
            messages.append(Message(each.role, text, images=images))
        return tuple(messages)

    @asynccontextmanager
    async def _asked(self) -> AsyncGenerator[Client]:
        """A client for one request."""
        connection = self.connection
        try:
            with plain_errors(), anyio.fail_after(self.timeout):
                if connection is None:
                    async with self.opened(lambda: None) as client:
                        yield client
                elif connection.client is None:
                    raise ConnectionError(connection.error or "it is not connected")
                else:
                    yield connection.client
        except Exception as error:
            raise ConnectionError(f"MCP server {self.name}: {error_text(error)}") from error

    def serve(self, connection: MCPConnection | None) -> None:
        """Let runs of this event loop use a service's connection; None: there is none any more."""
        self._served = connection


class _Watched:
    """A stream that a transport reads from, which tells when it ends."""

    def __init__(self, stream: Any, ended: Callable[[], None]) -> None:
        self._stream = stream
        self._ended = ended

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def __aenter__(self) -> Self:
        await self._stream.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stream.__aexit__(kind, error, trace)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self._stream.__anext__()
        except StopAsyncIteration:
            self._ended()
            raise


def as_name(text: str) -> str:
    """A name that model providers take."""
    return _NOT_IN_A_NAME.sub("_", text)[:64]
