"""One connection to Redis, made again whenever it is lost: what the Redis bus and the Redis session store stand on.

Many tasks share it: coredis sends their commands in one write and returns the answers in order. The answer to a caller
that was cancelled is dropped, and the connection stays in order.
"""

from __future__ import annotations

import logging
import reprlib
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from hashlib import sha1
from typing import Any, Generic, TypeVar

import anyio
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled
from coredis.exceptions import ClusterDownError, MovedError, NoScriptError, ReadOnlyError, RedisError, UnblockedError
from coredis.exceptions import ConnectionError as RedisConnectionError

from definable.concurrency.backoff import Backoff
from definable.concurrency.logs import logger_named
from definable.errors import StorageError

from .redis_address import RedisAddress, RedisAway, anything, data
from .redis_servers import RedisServers, close_buffers, said

Answer_co = TypeVar("Answer_co", covariant=True)


class Script(Generic[Answer_co]):
    """A Lua script, which a Redis server knows by its digest and runs as one command.

    Args:
        source: In Lua 5.1 (https://redis.io/docs/latest/develop/programmability/eval-intro/).
        read: What its answer says; raises `ValueError` at one that is not of its shape.
    """

    def __init__(self, source: str, read: Callable[[Any], Answer_co]) -> None:
        self.source: str = source
        self.digest: str = sha1(source.encode(), usedforsecurity=False).hexdigest()
        self.read: Callable[[Any], Answer_co] = read


logger: logging.Logger = logger_named(__name__)

Answer = TypeVar("Answer")

RECONNECT_BACKOFF = Backoff(initial=0.02, maximum=1.0, jitter=0.5, stable_after=1.0)
"""Between two tries to connect."""

ANSWER_SHARE = 0.4
"""Of the time for which callers wait: so long Redis may take for one answer. Then the connection counts as lost, and
there is time to make another one and to ask again: a proxy or a NAT that has forgotten a connection says nothing."""

SHORTEST_ANSWER = 1.0
"""Seconds that Redis has for an answer in any case, unless callers wait for less: a busy machine is not a lost one."""

_STALE = (ClusterDownError, MovedError, NoScriptError, ReadOnlyError, UnblockedError)
"""Answers that another connection would not give: the server has changed its part, or forgotten the scripts."""


logging.getLogger("coredis").addFilter(lambda record: record.msg != "Connection attempt failed unexpectedly!")
"""Logged with a traceback each time, also when the attempt was cancelled; `RedisLink` logs a failure once."""


class RedisLink:
    """A connection that is made again when it is lost.

    Args:
        address: Where to.
        scripts: What the server has to know.
        timeout: Seconds for which callers wait; see `ANSWER_SHARE`.
    """

    def __init__(self, address: RedisAddress, scripts: Sequence[Script[Any]] = (), *, timeout: float) -> None:
        self.failure: StorageError | None = RedisAway(f"Redis at {address}: not connected")
        """Why there is no connection; None while there is one."""
        self.client_id: int = 0
        """The connection's number at the server."""
        self._address = address
        self._scripts = scripts
        self._timeout = timeout
        self._answer_timeout = max(timeout * ANSWER_SHARE, min(timeout, SHORTEST_ANSWER))
        self._servers = RedisServers(address, self._answer_timeout)
        self._connection: Any = None
        self._up_since = 0.0
        """When the connection was made last, in seconds of the event loop's clock."""
        self._changed = anyio.Event()
        self._doubted = anyio.Event()
        """Set when a caller went away before there was an answer."""
        self._scope = anyio.CancelScope()
        self._tried = anyio.Event()
        """Set when the first try has come to its end."""

    # --- the connection

    async def run(self) -> None:
        """Keep the connection up until `close`; end when the first try of each server fails."""
        failures = 0
        with self._scope:
            async with anyio.create_task_group() as beside:
                beside.start_soon(self._dispel_doubts)
                was_up = await self._connect()
                for _ in range(self._servers.count - 1):
                    was_up = was_up or await self._connect()
                while self.client_id:
                    if was_up:
                        logger.warning("%s", self.failure)
                    ran_for = anyio.current_time() - self._up_since if was_up else 0.0
                    failures = RECONNECT_BACKOFF.failures_after(failures, ran_for)
                    await anyio.sleep(RECONNECT_BACKOFF.delay(failures))
                    was_up = await self._connect()
                beside.cancel_scope.cancel()
        self._tried.set()

    async def first_failure(self) -> StorageError | None:
        """Why the first try failed, once it has come to its end; None when it did not."""
        await self._tried.wait()
        return None if self.client_id else self.failure

    def close(self) -> None:
        """End."""
        self._scope.cancel()

    async def _connect(self) -> bool:
        """Connect, and return when the connection is lost (True) or cannot be made (False)."""
        cause: BaseException | None = None
        connection: Any = None
        was_up = False
        try:
            connection = await self._servers.connection()
            connection.register_connect_callback(self._prepare)
            ready = _Ready(self, connection)
            try:
                await connection.run(task_status=ready)
            finally:
                was_up, self._connection = ready.was_up, None
                close_buffers(connection)
        except Exception as error:  # also what coredis makes of an answer that is none: a server may say anything
            cause = error.__cause__ or error
        await checkpoint_if_cancelled()  # coredis turns a cancelled attempt into a failed one
        why = "the connection was lost" if cause is None else said(cause)
        if cause is not None and not self.client_id:
            why = await self._servers.explain(cause, connection)
        self._set_failure(RedisAway(f"Redis at {self._address}: {why}"))
        if not was_up:
            self._servers.failed()
        return was_up

    async def _prepare(self, connection: Any) -> None:
        await self._servers.check(connection)
        for script in self._scripts:
            digest = await connection.create_request(b"SCRIPT LOAD", script.source)
            if data(digest) != script.digest.encode():
                raise ValueError(f"SCRIPT LOAD was answered {reprlib.repr(digest)}")

    def up(self, connection: Any) -> None:
        """The connection is made."""
        if self.client_id:
            logger.warning("Redis at %s: connected again", self._address)
        else:
            # From now on it outlives the cancellation of its users, so that their last commands are sent.
            self._scope.shield = True
            self._tried.set()
        self._connection, self.client_id = connection, connection.client_id
        self._up_since = anyio.current_time()
        self._set_failure(None)

    def _set_failure(self, failure: StorageError | None) -> None:
        self.failure = failure
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    async def is_up(self) -> None:
        """Return once there is a connection."""
        while self.failure is not None:
            await self._changed.wait()

    async def is_down(self) -> None:
        """Return once there is none."""
        while self.failure is None:
            await self._changed.wait()

    async def _dispel_doubts(self) -> None:
        """Find out whether a connection is dead whose callers were more impatient than it may be."""
        while True:
            await self._doubted.wait()
            with suppress(StorageError):
                await self.call(b"PING")
            self._doubted = anyio.Event()

    # --- what is asked of it

    async def call(
        self, command: bytes, *args: Any, read: Callable[[Any], Answer] = anything, blocks: float = 0.0
    ) -> Answer:
        """What Redis's answer says.

        Args:
            command: The command.
            args: Its arguments.
            read: Reads the answer; raises `ValueError` at one that is not of the shape that was asked for.
            blocks: Seconds for which the command may keep Redis from answering.

        Raises:
            RedisAway: There is no connection, it was lost, no answer came in time, or one that is none.
            StorageError: Redis has refused.
        """
        connection = self._connection
        if connection is None:
            raise RedisAway(str(self.failure))
        try:
            answer = await connection.create_request(command, *args, timeout=self._answer_timeout + blocks)
        except (RedisConnectionError, TimeoutError, *_STALE) as error:
            if isinstance(error, MovedError):
                self._servers.follow(error.host, error.port)
            raise self._lost(connection, f"{error}" or "no answer came in time") from error
        except RedisError as error:
            raise StorageError(f"Redis at {self._address}: {error}") from error
        except Exception as error:  # what coredis makes of an answer that is none
            raise self._lost(connection, f"an answer that cannot be read ({error!r})") from error
        except BaseException:
            if not blocks:
                self._doubted.set()
            raise
        try:
            return read(answer)
        except ValueError as error:
            why = f"an unexpected answer to {command.decode()}, {reprlib.repr(answer)}: {error}"
            raise self._lost(connection, why) from error

    def _lost(self, connection: Any, why: str) -> RedisAway:
        """The connection is of no more use; known from now on, not when its tasks have ended."""
        connection.invalidate()
        failure = RedisAway(f"Redis at {self._address}: {why}")
        if connection is self._connection:
            self._connection = None
            self._set_failure(failure)
        return failure

    async def script(self, script: Script[Answer], keys: Sequence[Any], args: Sequence[Any]) -> Answer:
        """What a script's answer says; raises as `call` does."""
        return await self.call(b"EVALSHA", script.digest, len(keys), *keys, *args, read=script.read)

    async def insist(self, script: Script[Answer], keys: Sequence[Any], args: Sequence[Any]) -> Answer:
        """The answer of a script that may be asked twice, as soon as there is a connection.

        Raises:
            RedisAway: There was none in time.
            StorageError: Redis has refused.
        """
        with anyio.move_on_after(self._timeout):
            while True:
                await self.is_up()
                try:
                    return await self.script(script, keys, args)
                except RedisAway:
                    await checkpoint()
        raise RedisAway(str(self.failure or f"Redis at {self._address} did not answer within {self._timeout:g} s"))


class _Ready:
    """coredis reports here that a connection is made."""

    def __init__(self, link: RedisLink, connection: Any) -> None:
        self.was_up = False
        self._link = link
        self._connection = connection

    def started(self, value: object = None) -> None:
        self.was_up = True
        self._link.up(self._connection)


@asynccontextmanager
async def linked(
    address: RedisAddress, scripts: Sequence[Script[Any]] = (), *, timeout: float
) -> AsyncGenerator[RedisLink, None]:
    """A connection while the context is open; the arguments are `RedisLink`'s.

    Raises:
        StorageError: It cannot be made.
    """
    link = RedisLink(address, scripts, timeout=timeout)
    failure: Exception | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(link.run)  # `start`, cancelled, would wait for the end of what is shielded
        try:
            failure = await link.first_failure()
            if failure is None:
                yield link
        except Exception as error:  # out of the group as what it is
            failure = error
        finally:
            link.close()
    if failure is not None:
        raise failure
