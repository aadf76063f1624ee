"""Where a Redis is (its URL, shown without user, password and options), whose keys are meant, and readers of answers.

A proxy that drops or mixes up answers, or something else on the port, may answer anything. Each reader takes an answer
as coredis gives it and raises `ValueError` where it is not of the shape that was asked for; `RedisLink` connects anew
then: after one answer that belongs to another question, so do all that follow.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from os.path import isdir
from typing import Any, NamedTuple, TypeVar, cast
from urllib.parse import SplitResult, parse_qs, unquote, urlencode, urlsplit

from definable.errors import ConfigurationError, MissingExtra

from .service_name import ServerAway, ServiceName

Value = TypeVar("Value")

DEFAULT_PORT = 6379

SENTINEL_PORT = 26379


class RedisAway(ServerAway):
    """Redis cannot be reached, or does not answer: whether it did what it was asked to is not known."""


class KeyPrefix(ServiceName):
    """What the keys of one service begin with, in Redis.

    Args:
        given: The user's `prefix=`; None to follow the agent's name.
        owner: What has the keys, for errors.

    Raises:
        ConfigurationError: The prefix is empty or has braces, which say what of a key chooses a cluster's node.
    """

    def __init__(self, given: str | None, owner: str) -> None:
        if given is not None and (not given or "{" in given or "}" in given):
            raise ConfigurationError(f"prefix={given!r}: not empty, without braces")
        super().__init__(given, owner, "prefix")

    def __str__(self) -> str:
        return f"{{{super().__str__()}}}"


class RedisAddress:
    """Where a Redis or a Valkey is: one server, the nodes of a cluster, or the Sentinels that know the primary.

    Args:
        url: `redis://[user:password@]host[:port][/db]`, `unix:///path/to/socket`,
            `redis+cluster://[user:password@]host[:port],host[:port]`,
            `redis+sentinel://[user:password@]host[:port],host[:port]/service[?db=0]` (user and password are those of
            the servers; those of the Sentinels are the options `sentinel_username` and `sentinel_password`);
            `rediss` in place of `redis` for TLS. Percent-encode what is special in a password.
        user: What the address is for; named when coredis is missing.
        ssl_context: For TLS; None: the system's authorities and the host's name are checked, as the options
            `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile`, `ssl_cert_reqs` and `ssl_check_hostname` of the URL say.

    Raises:
        ConfigurationError: It is no such URL, or what it says of TLS cannot be.
        MissingExtra: coredis is not installed.
    """

    def __init__(self, url: str, user: str, ssl_context: ssl.SSLContext | None = None) -> None:
        if find_spec("coredis") is None:
            raise MissingExtra(f"{user} needs coredis: pip install definable[redis]")
        self.user: str = user
        self._parts = _checked(url)
        if ssl_context is not None and not self.has_tls:
            raise ConfigurationError(f"ssl_context= is for rediss://, not for {self}")
        self._ssl_context = ssl_context or (tls_context(self._parts.options) if self.has_tls else None)

    def __repr__(self) -> str:
        return repr(str(self))

    def __str__(self) -> str:
        return self._parts.shown

    @property
    def has_tls(self) -> bool:
        """Whether what is said is encrypted."""
        return self._parts.scheme.startswith("rediss")

    @property
    def service(self) -> str | None:
        """What the Sentinels call the primary and its replicas; None where no Sentinel is asked."""
        return self._parts.service

    @property
    def servers(self) -> Sequence[Server | None]:
        """Host and port of those that the URL names; None for its socket."""
        return self._parts.servers or (None,)

    def connection(self, timeout: float, server: Server | None, *, to_sentinel: bool = False) -> Any:
        """A connection that is not made yet: coredis's, without its pool, which loses a place for every read that is
        cancelled (6.9).

        Args:
            timeout: Seconds to connect, and for an answer.
            server: Which; None for the URL's socket.
            to_sentinel: Whether that is a Sentinel, which has users and passwords of its own.
        """
        from coredis.pool import ConnectionPool  # an extra, and heavy

        parts = self._parts
        options: dict[str, Any] = {"stream_timeout": timeout, "connect_timeout": timeout}
        if self._ssl_context is not None:
            options["ssl_context"] = self._ssl_context
        credentials, query = parts.credentials, dict(parts.options)
        if to_sentinel:
            credentials = ""
            names = ("username", "password")
            query = {name: query[f"sentinel_{name}"] for name in names if f"sentinel_{name}" in query}
        where = parts.path if server is None else f"{_bracketed(server.host)}:{server.port}"
        url = f"{parts.scheme.partition('+')[0]}://{credentials}{where}?{urlencode(query)}"
        pool: Any = ConnectionPool.from_url(url, decode_components=True, **options)
        return pool.connection_class(pool.location, **pool.connection_kwargs)


class Server(NamedTuple):
    """Where one server listens."""

    host: str
    port: int


class _Parts(NamedTuple):
    """What a URL says."""

    scheme: str
    credentials: str
    """`user:password@`, percent-encoded."""
    servers: tuple[Server, ...]
    path: str
    """Of the socket."""
    service: str | None
    options: dict[str, str]
    shown: str
    """The URL without user, password and options."""


SCHEMES = {"redis": DEFAULT_PORT, "redis+cluster": DEFAULT_PORT, "redis+sentinel": SENTINEL_PORT}
"""With the port where none is given; each may have TLS, as `rediss`."""


def _checked(url: str) -> _Parts:
    try:
        parts = _parts(urlsplit(url))
    except ValueError:
        parts = None  # the error would quote what may be part of a password
    if parts is None:
        raise ConfigurationError(
            "a Redis URL is redis://[user:password@]host[:port][/db], rediss://..., unix:///path, "
            "redis+cluster://host:port,host:port or redis+sentinel://host:port,host:port/service; in a password, "
            "percent-encode / ? # @ and :"
        ) from None
    return parts


def _parts(split: SplitResult) -> _Parts | None:
    options = {name: values[0] for name, values in parse_qs(split.query).items()}
    credentials, at, hosts = split.netloc.rpartition("@")
    if split.scheme == "unix":
        if not split.path:
            return None
        return _Parts("unix", credentials + at, (), split.path, None, options, f"unix://{split.path}")
    port = SCHEMES.get(split.scheme.replace("rediss", "redis", 1))
    if port is None:
        return None
    servers = tuple([_server(host, port) for host in hosts.split(",")])
    kind, path = split.scheme.partition("+")[2], split.path.removeprefix("/")
    service, _, database = path.partition("/") if kind == "sentinel" else (None, "", path)
    options.setdefault("db", database or "0")
    is_one = not kind and len(servers) == 1
    if service == "" or not options["db"].isdecimal() or not (is_one or kind):
        return None
    if kind == "cluster" and options["db"] != "0":  # a cluster has no other
        return None
    where = ",".join(f"{_bracketed(server.host)}:{server.port}" for server in servers)
    shown = f"{split.scheme}://{where}/{service or options['db']}"
    return _Parts(split.scheme, credentials + at, servers, "", service, options, shown)


def _server(text: str, default_port: int) -> Server:
    split = urlsplit(f"//{text}")
    if not split.hostname or split.path:
        raise ValueError("a host was expected")
    return Server(unquote(split.hostname), split.port or default_port)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


CERT_REQS = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
"""What `ssl_cert_reqs` may be."""


def tls_context(options: Mapping[str, str]) -> ssl.SSLContext:
    """What a URL's options say of TLS; coredis's own does not check the host's name unless it is told to (6.9).

    Raises:
        ConfigurationError: A file is not there or cannot be used, or an option has a value that it does not take.
    """
    required, checks_name = options.get("ssl_cert_reqs", "required"), options.get("ssl_check_hostname", "true").lower()
    if required not in CERT_REQS or checks_name not in ("true", "false", "1", "0", "yes", "no"):
        raise ConfigurationError("ssl_cert_reqs is none, optional or required; ssl_check_hostname is true or false")
    authorities = options.get("ssl_ca_certs")
    try:
        is_directory = authorities is not None and isdir(authorities)
        context = ssl.create_default_context(
            cafile=None if is_directory else authorities, capath=authorities if is_directory else None
        )
        if certificate := options.get("ssl_certfile"):
            context.load_cert_chain(certificate, options.get("ssl_keyfile"))
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"ssl_ca_certs, ssl_certfile or ssl_keyfile cannot be used: {error}") from error
    context.check_hostname = checks_name in ("true", "1", "yes") and required != "none"
    context.verify_mode = CERT_REQS[required]
    return context


def anything(answer: Any) -> Any:
    """Any answer, as it is."""
    return answer


def nothing(answer: Any) -> None:
    """No answer."""
    if answer is not None:
        raise ValueError("nothing was expected")


def integer(answer: Any) -> int:
    """A number."""
    if type(answer) is not int:
        raise ValueError("a number was expected")
    return answer


def data(answer: Any) -> bytes:
    """A string of bytes."""
    if not isinstance(answer, bytes):
        raise ValueError("a string was expected")
    return answer


def optional_data(answer: Any) -> bytes | None:
    """A string of bytes, or none."""
    return None if answer is None else data(answer)


def items(answer: Any, count: int | None = None) -> Sequence[Any]:
    """A list, of a certain length where one is given."""
    if not isinstance(answer, list | tuple):
        raise ValueError("a list was expected")
    found = cast("Sequence[Any]", answer)
    if count is not None and len(found) != count:
        raise ValueError(f"a list of {count} was expected")
    return found


def list_of(read: Callable[[Any], Value]) -> Callable[[Any], list[Value]]:
    """A reader of a list whose items another reader reads."""
    return lambda answer: [read(item) for item in items(answer)]


def stream_entry(answer: Any) -> tuple[bytes, list[bytes]]:
    """An entry of a stream: its id, then names and values of its fields in turns."""
    id, fields = items(answer, 2)
    flat = [data(field) for field in items(fields)]
    if len(flat) % 2:
        raise ValueError("names and values were expected")
    return data(id), flat
