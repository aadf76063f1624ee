"""`Idempotency-Key`: a request that is sent again gets the same run (draft-ietf-httpapi-idempotency-key-header).

`POST /run` asks here. What was answered is remembered for a day within bounds, by the event bus where other replicas
share it. A run with a key goes on when its client leaves: that client will ask for it again.
"""

from __future__ import annotations

import json
import logging
import re
from base64 import b64decode, b64encode
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any, Literal

import anyio

from definable.agent.bus.base import KeepsValues
from definable.agent.run.context import RunRequest
from definable.concurrency.clock import current_clock
from definable.concurrency.logs import logger_named
from definable.errors import EventBusError, StorageError
from definable.server.problem import Problem

from .request import Request
from .response import Response, ResponseSender, Sendable, problem_of

logger: logging.Logger = logger_named("definable.http")

MAX_KEY = 255
"""Characters of a key."""

TTL = 24 * 3600.0
"""Seconds for which an answer is remembered."""

LEASE = 60.0
"""Seconds after which a key is free again whose replica has died in the midst of its run."""

MAX_KEYS = 10_000
"""Answers that are remembered; the oldest are forgotten beyond it."""

MAX_BYTES = 64 * 1024 * 1024
"""Bytes of all answers that are remembered."""

MAX_ANSWER = 4 * 1024 * 1024
"""Bytes of an answer that is remembered; of a larger one, that there was one."""

FORGET_TIMEOUT = 5.0
"""Seconds that the bus may take to forget a key whose run did not begin, or to keep an answer."""

ITEM = re.compile(r'"((?:[^"\\]|\\["\\])*)"|([^\s",;]+)')
"""A string of RFC 9651, or the bare word that many clients send in its place."""

SAVED = frozenset({"completed", "failed", "cancelled"})
"""Statuses of a run that has begun and ended: its tools may have acted, so that it is not made again."""


def idempotency_key(request: Request) -> str | None:
    """The key of a request; None where it has none.

    Raises:
        Problem: 400, it is no key.
    """
    given = request.header(b"idempotency-key").strip()
    if not given:
        return None
    found = ITEM.fullmatch(given)
    key = "" if found is None else found[2] or re.sub(r"\\(.)", r"\1", found[1] or "")
    if not key or len(key) > MAX_KEY or not key.isprintable() or not key.isascii():
        raise Problem(400, f'Idempotency-Key is a string of 1 to {MAX_KEY} printable characters, such as "8e03978e"')
    return key


@dataclass(frozen=True, slots=True)
class Entry:
    """What is remembered of a key."""

    fingerprint: str
    """Of the body that came with it."""
    run_id: str
    state: Literal["running", "answered", "streamed"] = "running"
    answer: Response | None = None
    """What was answered, whole; None while the run goes on, and where it was streamed or is too large."""
    expires_at: float = field(default=0.0, compare=False)
    """Unix seconds; not where the bus keeps it."""

    @property
    def size(self) -> int:
        """Bytes of the answer."""
        return 500 if self.answer is None else 500 + len(self.answer.body)

    def to_json(self) -> bytes:
        """For the bus."""
        answer = self.answer
        fields: dict[str, Any] = {"fingerprint": self.fingerprint, "run_id": self.run_id, "state": self.state}
        if answer is not None:
            kind = None if answer.content_type is None else answer.content_type.decode("latin-1")
            headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in answer.headers]
            fields["answer"] = [b64encode(answer.body).decode(), answer.status, kind, headers]
        return json.dumps(fields).encode()

    @classmethod
    def from_json(cls, value: bytes) -> Entry:
        """What `to_json` has made."""
        fields: dict[str, Any] = json.loads(value)
        answer = None
        if "answer" in fields:
            body, status, kind, headers = fields["answer"]
            pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
            answer = Response(b64decode(body), status, None if kind is None else kind.encode("latin-1"), pairs)
        return cls(fields["fingerprint"], fields["run_id"], fields["state"], answer)


class KeyedRuns:
    """The runs of late that were asked for with a key.

    Args:
        shared: Keeps them for all replicas; None where there is one process alone.
    """

    def __init__(self, shared: KeepsValues | None) -> None:
        self._shared = shared
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._bytes = 0

    async def answered_once(
        self,
        request: Request,
        asked: RunRequest,
        key: str,
        body: bytes,
        make: Callable[[], Awaitable[Sendable]],
        status_of: Callable[[], str | None],
        events_of: Callable[[str], Sendable | None],
    ) -> Sendable:
        """Have a run made, unless it was made already: then its answer is the same.

        Args:
            request: Who asks.
            asked: The run.
            key: The request's.
            body: The request's, as it came.
            make: Makes the run and what it is answered; a stream makes it while it is sent.
            status_of: How the run stands by now; None where it has not begun.
            events_of: What is left of the events of a streamed run; None where it is forgotten, or another replica's.

        Raises:
            Problem: 409, it goes on still; 422, the key came with another body before.
            Exception: What `make` raises.
        """
        name = _digest(repr((asked.namespace, asked.user_id, asked.auth and asked.auth.user_id, key)).encode())
        entry = Entry(_digest(body), asked.run_id)
        known = await self._begin(name, entry)
        if known is not None:
            streamed = events_of(known.run_id) if known.state == "streamed" else None
            return self._repeated(request, known, entry, streamed)
        return await _Keyed(self, name, entry, status_of).answer(make)

    def _repeated(self, request: Request, known: Entry, entry: Entry, streamed: Sendable | None) -> Sendable:
        if known.fingerprint != entry.fingerprint:
            raise Problem(422, "this Idempotency-Key came with another body before: a new request needs a new key")
        if (answer := known.answer or streamed) is not None:
            return answer
        where = request.link(f"/runs/{known.run_id}")
        headers = [(b"location", where)]
        if known.state == "running":
            headers.append((b"retry-after", b"1"))
            raise Problem(409, "the run of this Idempotency-Key goes on still", headers=headers, run_id=known.run_id)
        how = "was streamed" if known.state == "streamed" else "is too large to be remembered"
        detail = f"the run of this Idempotency-Key has ended; its answer {how}, and Location is where the run is shown"
        raise Problem(409, detail, headers=headers, run_id=known.run_id)

    async def _begin(self, name: str, entry: Entry) -> Entry | None:
        """Remember a key whose run is about to begin; returns what is remembered of it already."""
        if self._shared is not None:
            value = await self._shared.keep_value(f"idempotency:{name}", entry.to_json(), LEASE)
            return None if value is None else Entry.from_json(value)
        now = current_clock().now()
        known = self._entries.get(name)
        if known is not None and known.expires_at > now:
            return known
        self._put(name, replace(entry, expires_at=now + TTL))
        return None

    async def keep(self, name: str, entry: Entry, ttl: float) -> None:
        """Remember what became of a key."""
        if self._shared is not None:
            await self._shared.keep_value(f"idempotency:{name}", entry.to_json(), ttl, replace=True)
        else:
            self._put(name, replace(entry, expires_at=current_clock().now() + ttl))

    async def forget(self, name: str) -> None:
        """Remember nothing of a key: its run did not begin, or is made again."""
        if self._shared is not None:
            await self._shared.drop_value(f"idempotency:{name}")
        else:
            self._pop(name)

    @asynccontextmanager
    async def renewed(self, name: str, entry: Entry) -> AsyncGenerator[None]:
        """Keep other replicas from taking the key while the context is open."""
        if self._shared is None:
            yield
            return
        failure: BaseException | None = None
        async with anyio.create_task_group() as group:
            group.start_soon(self._renew, name, entry)
            try:
                yield
            except Exception as error:  # raised outside, because a task group would wrap it
                failure = error
            group.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _renew(self, name: str, entry: Entry) -> None:
        while True:
            await anyio.sleep(LEASE / 3)
            await _at_best(self.keep, name, entry, LEASE)

    def _put(self, name: str, entry: Entry) -> None:
        self._pop(name)
        self._entries[name] = entry
        self._bytes += entry.size
        while len(self._entries) > MAX_KEYS or (self._bytes > MAX_BYTES and len(self._entries) > 1):
            self._pop(next((each for each, old in self._entries.items() if old.state != "running"), name))

    def _pop(self, name: str) -> None:
        entry = self._entries.pop(name, None)
        if entry is not None:
            self._bytes -= entry.size


class _Keyed:
    """One run with a key, and what becomes of the key."""

    def __init__(self, runs: KeyedRuns, name: str, entry: Entry, status_of: Callable[[], str | None]) -> None:
        self._runs = runs
        self._name = name
        self._entry = entry
        self._status_of = status_of

    async def answer(self, make: Callable[[], Awaitable[Sendable]]) -> Sendable:
        try:
            async with self._runs.renewed(self._name, self._entry):
                made = await make()
        except BaseException as error:
            await self._end_failed(error)
            raise
        if not isinstance(made, Response):
            return _KeyedStream(self, made)
        await self._keep("answered", made)
        return made

    async def send_stream(self, stream: Sendable, sender: ResponseSender) -> None:
        try:
            async with self._runs.renewed(self._name, self._entry):
                await stream.send(sender)
        except BaseException as error:
            if self._status_of() in SAVED and isinstance(error, Exception):
                await self._keep("streamed", None)
            else:
                await self._forget()
            raise
        await self._keep("streamed", None)

    async def _end_failed(self, error: BaseException) -> None:
        if isinstance(error, Exception) and self._status_of() in SAVED:
            problem = problem_of(error)
            headers = [pair for pair in problem.response_headers() if pair[0] != b"content-length"]
            await self._keep("answered", Response(problem.body(), problem.status, None, headers))
        else:  # refused before it began, or cut off by a stop
            await self._forget()

    async def _keep(self, state: Literal["answered", "streamed"], answer: Response | None) -> None:
        if answer is not None and len(answer.body) > MAX_ANSWER:
            answer = None
        await _at_best(self._runs.keep, self._name, replace(self._entry, state=state, answer=answer), TTL)

    async def _forget(self) -> None:
        await _at_best(self._runs.forget, self._name)


@dataclass(frozen=True, slots=True)
class _KeyedStream:
    """A streamed run with a key."""

    keyed: _Keyed
    stream: Sendable

    async def send(self, sender: ResponseSender) -> None:
        """Answer a request."""
        await self.keyed.send_stream(self.stream, sender)


async def _at_best(function: Callable[..., Awaitable[None]], *args: object) -> None:
    """Change what is remembered. A bus that fails must not change the answer: the run was made."""
    # Shielded: also a run that a stop cuts off may be asked for again. Bounded, for a broker that is away.
    with anyio.move_on_after(FORGET_TIMEOUT, shield=True):
        try:
            await function(*args)
        except (StorageError, EventBusError) as error:
            logger.warning("what became of an Idempotency-Key could not be remembered: %s", error)


def _digest(content: bytes) -> str:
    return blake2b(content, digest_size=20).hexdigest()
