"""Where a Redis is (its URL, shown without user, password and options), whose keys are meant, and readers of answers.

A proxy that drops or mixes up answers, or something else on the port, may answer anything. Each reader takes an answer
as coredis gives it and raises `ValueError` where it is not of the shape that was asked for; `RedisLink` connects anew
then: after one answer that belongs to another question, so do all that follow.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, TypeVar, cast
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from definable.errors import ConfigurationError, MissingExtra, StorageError

from .service_name import ServiceName

Value = TypeVar("Value")

DEFAULT_PORT = 6379


class RedisAway(StorageError):
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
    """A Redis or Valkey server's address.

    Args:
        url: `redis://[user:password@]host[:port][/db]`, `rediss://` for TLS (the certificate is verified), or
            `unix:///path/to/socket`. Percent-encode what is special in a password.
        user: What the address is for; named when coredis is missing.

    Raises:
        ConfigurationError: It is no such URL.
        MissingExtra: coredis is not installed.
    """

    def __init__(self, url: str, user: str) -> None:
        if find_spec("coredis") is None:
            raise MissingExtra(f"{user} needs coredis: pip install definable[redis]")
        self._url = url
        self._shown = _checked(url)
        self._followed: tuple[str, int] | None = None
        """The cluster's node that Redis has named in place of this one."""

    def __repr__(self) -> str:
        return repr(self._shown)

    def __str__(self) -> str:
        return self._shown

    def connection(self, timeout: float) -> Any:
        """A connection that is not made yet: coredis's, without its pool, which loses a place for every read that is
        cancelled (6.9).

        Args:
            timeout: Seconds to connect, and for an answer.
        """
        from coredis.pool import ConnectionPool  # an extra, and heavy

        options: dict[str, Any] = {"stream_timeout": timeout, "connect_timeout": timeout}
        split = urlsplit(self._url)
        if split.scheme == "rediss" and "ssl_" not in split.query:  # coredis's own does not check the host's name
            options["ssl_context"] = ssl.create_default_context()
        pool: Any = ConnectionPool.from_url(self._url, decode_components=True, **options)
        location = pool.location
        if self._followed is not None:
            location = type(location)(*self._followed)
        return pool.connection_class(location, **pool.connection_kwargs)

    def follow(self, host: str, port: int) -> None:
        """Connect to this node of the cluster from now on."""
        self._followed = (host, port)

    def unfollow(self) -> None:
        """Connect to the URL's own server again."""
        self._followed = None


def _checked(url: str) -> str:
    """What may be shown of the URL."""
    try:
        split = urlsplit(url)
        shown = _shown(split)
    except ValueError:
        shown = None  # the error would quote what may be part of a password
    if shown is None:
        raise ConfigurationError(
            "a Redis URL is redis://[user:password@]host[:port][/db], rediss://... or unix:///path; in a password, "
            "percent-encode / ? # @ and :"
        ) from None
    return shown


def _shown(split: SplitResult) -> str | None:
    if split.scheme == "unix":
        return f"unix://{split.path}" if split.path else None
    database = split.path.removeprefix("/") or parse_qs(split.query).get("db", ["0"])[0]
    if split.scheme not in ("redis", "rediss") or not split.hostname or not database.isdecimal():
        return None
    host = unquote(split.hostname)
    host = f"[{host}]" if ":" in host else host
    return f"{split.scheme}://{host}:{split.port or DEFAULT_PORT}/{database}"


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
