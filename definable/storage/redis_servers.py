"""Which server a connection is made to: the URL's one, the primary that the Sentinels name, or a cluster's node.

`RedisLink` asks before each attempt, and says how it ended. After a failover the former primary may be gone, may answer
as a replica, or may answer nothing; each of them ends in another attempt, and here it is decided where to.
"""

from __future__ import annotations

import logging
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import anyio
from coredis.exceptions import RedisError, ResponseError

from definable.concurrency.logs import logger_named
from definable.errors import StorageError

from .redis_address import RedisAddress, RedisAway, Server, data, integer, items

if TYPE_CHECKING:
    from .redis_link import RedisLink

logger: logging.Logger = logger_named(__name__)


GONE = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)

ANY_CERTIFICATE = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""To find out whether a server speaks TLS at all: nothing is said to it."""
ANY_CERTIFICATE.check_hostname = False
ANY_CERTIFICATE.verify_mode = ssl.CERT_NONE


class RedisServers:
    """The servers of one address, as one connection has come to know them.

    Args:
        address: What the user has said.
        timeout: Seconds to connect, and for an answer.
    """

    def __init__(self, address: RedisAddress, timeout: float) -> None:
        self._address = address
        self._timeout = timeout
        self._named: list[Server | None] = [*address.servers]
        self._nodes: list[Server | None] = []
        """Those of the cluster, as its nodes tell: the URL's own may all be gone."""
        self._owner: Server | None = None
        """The cluster's node that has the keys, as another one has said."""
        self._tries = 0
        self._is_cluster: bool | None = None

    @property
    def count(self) -> int:
        """How many attempts it takes to try each; the Sentinels are asked in one."""
        return 1 if self._address.service is not None else len(self._candidates)

    @property
    def _candidates(self) -> list[Server | None]:
        return [*self._named, *(node for node in self._nodes if node not in self._named)]

    async def connection(self) -> Any:
        """A connection that is not made yet, to the server whose turn it is.

        Raises:
            RedisAway: No Sentinel knows the primary.
        """
        if self._address.service is not None:
            server = await self._primary(self._address.service)
        else:
            candidates = self._candidates
            server = self._owner or candidates[self._tries % len(candidates)]
        return self._address.connection(self._timeout, server)

    async def explain(self, cause: BaseException, connection: Any) -> str:
        """Why a server could not be connected to, and what to do where TLS meets what is none: that says nothing."""
        meant_tls, host = self._address.has_tls, getattr(connection, "host", None)
        if host is None or isinstance(cause, ssl.SSLCertVerificationError | RedisError | ValueError | ConnectionError):
            return said(cause)
        advice = ""
        with suppress(OSError, *GONE), anyio.move_on_after(self._timeout):
            if not meant_tls:
                async with await anyio.connect_tcp(host, connection.port, ssl_context=ANY_CERTIFICATE, tls=True):
                    advice = ": the server speaks TLS at this port; write rediss, not redis"
            else:
                async with await anyio.connect_tcp(host, connection.port) as stream:
                    await stream.send(b"PING\r\n")
                    if (await stream.receive())[:1] in (b"+", b"-"):
                        advice = ": the server speaks no TLS at this port; write redis, not rediss"
        return said(cause) + advice

    def follow(self, host: str, port: int) -> None:
        """Connect to this node of the cluster from now on."""
        self._owner = Server(host, port)

    def failed(self) -> None:
        """The last attempt has failed: another server's turn."""
        if self._owner is None:
            self._tries += 1
        self._owner = None

    async def check(self, connection: Any) -> None:
        """Look at a server that was just connected to, before it is used.

        Raises:
            RedisAway: It is a replica: the Sentinels have not heard of it yet, or a failover is under way.
        """
        if self._address.service is not None:
            role = data(items(await connection.create_request(b"ROLE"))[0])
            if role != b"master":
                raise RedisAway(f"{connection.host}:{connection.port} is a {role.decode()}, not the primary")
        elif self._is_cluster is not False and self._named != [None]:
            try:
                slots = await connection.create_request(b"CLUSTER SLOTS")
            except ResponseError:  # no cluster, or its user may not ask: then the URL's nodes have to do
                self._is_cluster = False
                return
            self._is_cluster = True
            self._nodes = [*dict.fromkeys(node for slot in items(slots) for node in _nodes(slot, connection.host))]

    async def _primary(self, service: str) -> Server:
        """What the first Sentinel that answers says; it is asked first the next time too."""
        reasons: list[str] = []
        for sentinel in [*self._named]:
            assert sentinel is not None
            try:
                found = await self._ask_sentinel(sentinel, service)
            except (RedisError, TimeoutError, ValueError) as error:
                reasons.append(f"{sentinel.host}:{sentinel.port}: {said(error.__cause__ or error)}")
                found = None
            else:
                if found is None:
                    reasons.append(f"{sentinel.host}:{sentinel.port} knows no service {service!r}")
            if found is not None:
                return found
            self._named = [*self._named[1:], sentinel]
        raise RedisAway("no Sentinel names the primary: " + "; ".join(reasons))

    async def _ask_sentinel(self, sentinel: Server, service: str) -> Server | None:
        connection = self._address.connection(self._timeout, sentinel, to_sentinel=True)
        words, answers = (b"SENTINEL GET-MASTER-ADDR-BY-NAME", service), list[Any]()

        async def ask(connection: Any) -> None:
            answers.append(await connection.create_request(*words))
            connection.invalidate()

        connection.register_connect_callback(ask)
        try:
            with anyio.fail_after(2 * self._timeout):
                await connection.run()
        finally:
            close_buffers(connection)
        if answers[0] is None:
            return None
        host, port = items(answers[0], 2)
        return Server(data(host).decode(), int(data(port)))


def said(error: BaseException) -> str:
    """What an error says; its name where it says nothing."""
    return f"{error}" or type(error).__name__


def _nodes(slot: Any, host: str) -> list[Server | None]:
    """The nodes that have a range of slots, as one of them tells; a node that does not say where is that one itself."""
    found: list[Server | None] = []
    for node in items(slot)[2:]:
        named, port = items(node)[:2]
        found.append(Server(data(named or b"").decode() or host, integer(port)))
    return found


def close_buffers(connection: Any) -> None:
    """A connection that could not be made leaves its streams open (coredis 6.9), which is a ResourceWarning."""
    attributes = cast("dict[str, Any]", vars(connection))
    for name, value in attributes.items():
        if name.endswith(("_buffer_in", "_buffer_out")):
            value.close()


async def warn_of_eviction(link: RedisLink, user: str) -> None:
    """Say so when this Redis throws away keys of ours while it is full: what was accepted would be lost in silence.

    Args:
        link: To the server.
        user: What has its keys there.
    """
    with suppress(StorageError, ValueError):  # managed servers may not say
        text = (await link.call(b"INFO", b"memory", read=data)).decode()
        lines = dict(line.split(":", 1) for line in text.split() if ":" in line)
        policy = lines.get("maxmemory_policy", "noeviction")
        if lines.get("maxmemory", "0") != "0" and policy != "noeviction":
            what = "what waits in it" if policy.startswith("allkeys") else "its keys that expire"
            logger.warning(
                "%s: this Redis throws away %s when its memory is full (maxmemory-policy %s): events, sessions or "
                "dedupe keys are lost without a word then; give the service a Redis with noeviction",
                user,
                what,
                policy,
            )
