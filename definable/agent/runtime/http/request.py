"""An HTTP request on its way in: headers, and a body that is bounded in size and in time.

Work for a client that waits: it goes on only as long as the client does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl, quote

import anyio

from definable.agent.auth.base import AuthContext
from definable.agent.runtime.run_log import TooManyRuns
from definable.agent.trigger.request import UndecodedHeaders, request_url
from definable.concurrency.byte_limit import ByteLimit
from definable.json_text import UNCOUNTED_BODY, parsed_size
from definable.server.problem import Problem
from definable.server.request_cycle import ON_DISCONNECT, WHOLE_BODY, Message, OnDisconnect, Receive, Scope

from .body import UnfinishedBodies, UnfinishedBody, decoded
from .forwarded import RUN_NOTE

if TYPE_CHECKING:
    from definable.agent.runtime.ingress import Ingress
    from definable.agent.runtime.runs import RunRegistry
    from definable.agent.session.service import SessionService

    from .endpoints.runs import StreamedRuns
    from .idempotency import KeyedRuns


@dataclass(frozen=True, slots=True)
class EndpointContext:
    """What the endpoints of one served agent may use."""

    name: str
    """The service's."""
    runs: RunRegistry
    ingress: Ingress
    """Takes in what is handled by the agent's triggers, or later."""
    sessions: SessionService
    streamed: StreamedRuns
    keyed: KeyedRuns
    health: Callable[[], tuple[bool, dict[str, Any]]]
    """Whether all is well, and the state of every part."""
    backlog: Callable[[], Awaitable[Mapping[str, float]]]
    """How much waits for a worker."""
    openapi: Callable[[str], dict[str, Any]]
    """The OpenAPI document, for the path under which the service is mounted."""


MAX_QUERY = 1_000
"""Parameters of a query."""

NO_QUERY: Mapping[str, str] = {}


class ClientGone(Exception):
    """The client went away before its request was complete: there is nobody to answer."""


class Request:
    """One request to one of the agent's endpoints.

    Args:
        scope: The ASGI scope.
        receive: The ASGI receive callable.
        path_params: The path's parameters.
        bodies: The unfinished bodies of all requests.
        memory: Bytes that the requests which are being handled hold.
    """

    __slots__ = ("_bodies", "_body", "_held", "_memory", "_receive", "auth", "headers", "path_params", "scope")

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        path_params: Mapping[str, str],
        bodies: UnfinishedBodies,
        memory: ByteLimit,
    ) -> None:
        self.scope: Scope = scope
        self.path_params: Mapping[str, str] = path_params
        self.headers: UndecodedHeaders = UndecodedHeaders(scope["headers"])
        self.auth: AuthContext | None = None
        """Who is calling; None on a public endpoint."""
        self._receive = receive
        self._bodies = bodies
        self._memory = memory
        self._held = 0
        self._body: bytes | None = None

    @property
    def method(self) -> str:
        """In upper case."""
        return self.scope["method"]

    @property
    def path(self) -> str:
        """The whole path, decoded, with what the application is mounted under."""
        return self.scope["path"]

    def url(self) -> str:
        """The whole URL, as it was sent."""
        scope = self.scope
        query_string = scope["query_string"].decode("latin-1")
        return request_url(
            scope.get("scheme", "http"), self.header(b"host"), scope.get("raw_path"), scope["path"], query_string
        )

    @property
    def query(self) -> Mapping[str, str]:
        """The same as `parameters`."""
        return self.parameters()

    def parameters(self) -> Mapping[str, str]:
        """Query parameters; of a repeated one, the last.

        Raises:
            Problem: 400, there are too many.
        """
        query: bytes = self.scope["query_string"]
        if not query:
            return NO_QUERY
        if query.count(b"&") >= MAX_QUERY:
            raise Problem(400, f"the query has more than {MAX_QUERY:,} parameters")
        return dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))

    @property
    def client(self) -> tuple[str, int] | None:
        """Address and port of the peer."""
        client = self.scope.get("client")
        return None if client is None else (client[0], client[1])

    @property
    def content_type(self) -> str:
        """The `Content-Type` header; empty when there is none."""
        return self.header(b"content-type")

    def header(self, name: bytes) -> str:
        """One header; empty when there is none. Spares the others their decoding, where nobody asks for them.

        Args:
            name: In lower case.
        """
        found = [value for each, value in self.scope["headers"] if each == name]
        return b", ".join(found).decode("latin-1") if found else ""

    def note_run(self, run_id: str) -> None:
        """Have the access log name the run that came of the request."""
        notes: list[str] | None = self.scope.get(RUN_NOTE)
        if notes is not None:
            notes.append(run_id)

    def link(self, path: str) -> bytes:
        """A reference to another of the agent's endpoints, below what the application is mounted under."""
        return f"{quote(self.scope.get('root_path', '').rstrip('/'))}{path}".encode()

    def body_at_once(self, limit: int) -> bytes | None:
        """The whole body, if it has come in; None where `body` must wait for it.

        Args:
            limit: Bytes it may have.

        Raises:
            Problem: 413 when it has more.
        """
        extensions = self.scope.get("extensions")
        whole: bytes | None = extensions.get(WHOLE_BODY) if extensions else None
        if whole is not None and len(whole) > limit:
            raise too_large(limit)
        return whole

    async def body(self, limit: int) -> bytes:
        """The whole body; read once, however often it is asked for.

        Args:
            limit: Bytes it may have.

        Raises:
            Problem: 413 when it has more, 408 when no byte of it comes for a while, 503 when all unfinished bodies
                together hold too much.
            ClientGone: The client went away.
        """
        if self._body is not None:
            return self._body
        whole = self.body_at_once(limit)
        if whole is not None:
            return whole
        declared = self.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > limit:
            raise too_large(limit)
        with self._bodies.reading() as unfinished:
            body = self._body = await self._read(limit, unfinished)
        return body

    async def content(self, limit: int) -> bytes:
        """The whole body, decompressed where it was sent with a `Content-Encoding`; it counts until `release`.

        Args:
            limit: Bytes it may have, on its way and decompressed.

        Raises:
            Problem: As `body`; 415 when the coding is not understood, 400 when the body is not what it says.
            TooManyRuns: The requests that are being handled hold as much as they may.
            ClientGone: The client went away.
        """
        body = self.body_at_once(limit)
        if body is None:
            body = await self.body(limit)
        for name, _ in self.scope["headers"]:
            if name == b"content-encoding":
                body = decoded(self.header(name), body, limit)
                break
        if len(body) >= UNCOUNTED_BODY and not self._held:
            size = parsed_size(body)
            if not self._memory.take(size):
                raise TooManyRuns(f"what is being handled holds {self._memory.held} bytes already (max_memory_active)")
            self._held = size
        return body

    def release(self) -> None:
        """The request was answered: its body counts no more."""
        if self._held:
            self._memory.release(self._held)
            self._held = 0

    async def gone(self) -> None:
        """Return when the client goes away; the body must have been read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def replay(self) -> Message:
        """An ASGI `receive` for another application: the body again where it was read here, then what follows it."""
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}

    async def _read(self, limit: int, unfinished: UnfinishedBody) -> bytes:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            chunk = message.get("body", b"")
            if unfinished.size + len(chunk) > limit:
                raise too_large(limit)
            more: bool = message.get("more_body", False)
            if not more and not unfinished.size:
                return chunk
            unfinished.add(chunk)
            if not more:
                return unfinished.whole()


def too_large(limit: int) -> Problem:
    """The problem of a body beyond its limit."""
    return Problem(413, f"the request body is larger than {limit} bytes")


Result = TypeVar("Result")


async def until_gone(request: Request, function: Callable[[], Awaitable[Result]]) -> Result:
    """Call a function; cancel it when the client goes away. The request's body must have been read.

    Raises:
        ClientGone: The client went away first.
        Exception: What the function raised.
    """
    watch = hangup_watch(request)
    if watch is None:
        return await _until_disconnect(request, function)
    with anyio.CancelScope() as scope, watch(scope.cancel):
        return await function()
    raise ClientGone


def hangup_watch(request: Request) -> OnDisconnect | None:
    """What tells of the client's hang-up; None where one has to read on for that."""
    extensions = request.scope.get("extensions")
    return extensions.get(ON_DISCONNECT) if extensions else None


async def _until_disconnect(request: Request, function: Callable[[], Awaitable[Result]]) -> Result:
    """The same behind any ASGI server: a task reads until it is told of the disconnect."""
    results: list[Result] = []
    failure: Exception | None = None
    async with anyio.create_task_group() as group:

        async def watch() -> None:
            await request.gone()
            group.cancel_scope.cancel()

        group.start_soon(watch)
        try:
            results.append(await function())
        except Exception as error:  # raised below: the group would wrap it
            failure = error
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure
    if not results:
        raise ClientGone
    return results[0]
