# ruff: noqa: RUF009 - `option` makes a field, as `dataclasses.field` does
"""How an agent is served: the one list of the options of `serve`, with defaults, bounds and help; checked once.

The keywords of `serve` (`agent/options.py`), the options of `definable serve` and `docs/options.md` are made from it:
after a change here run `python tests/serve_options.py`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from definable.agent.bus.memory import DEFAULT_BUFFER
from definable.agent.options import ServeOptions
from definable.concurrency.rate_limits import Rate, rate_of
from definable.errors import ConfigurationError
from definable.original_library import unknown_arguments
from definable.server.listener import DEFAULT_MODE, BoundAddress

from .http.auth import PublicPaths
from .http.browsers import HostPolicy, OriginPolicy
from .http.forwarded import checked_networks, checked_root_path

DEFAULT_MAX_MEMORY = 256 * 1024 * 1024
"""Bytes of each of the `max_memory_...` bounds."""

DEFAULT_WORKERS = 100
"""Deliveries that are handled at once: handlers wait for models most of their time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """What is known of an option beside its name, type and default."""

    help: str | None
    """For the command line; None where it has no such option."""
    flag: str | None = None
    """The command line's, where it is not made of the name."""
    metavar: str | None = None
    minimum: int | None = None
    """The least that a whole number may be."""
    maximum: int | None = None
    is_file: bool = False
    reads: Callable[[str], Any] | None = None
    """Makes the value of the command line's text, where that is not done by its type."""
    is_list: bool = False
    check: Callable[[Any], object] | None = None
    """Raises `ConfigurationError` for a wrong value."""


def octal(text: str) -> int:
    """Permissions as `chmod` takes them."""
    return int(text, 8)


def option(default: Any, help: str | None, **known: Any) -> Any:
    """A field of `ServeSettings`; see `Option`."""
    is_list = isinstance(default, tuple)
    return field(default=default, metadata={"option": Option(help=help, is_list=is_list, **known)})


def optional_rate(written: str | None) -> Rate | None:
    """A rate of callers.

    Raises:
        ConfigurationError: It is none.
    """
    return None if written is None else rate_of(written)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """How an agent is served.

    Raises:
        ConfigurationError: A value is out of its range, or two cannot be combined.
    """

    name: str | None = option(None, "Shown in the banner and in logs; the agent's own name unless set.")
    """Shown in the banner and in logs; the agent's own name when None."""
    host: str = option("0.0.0.0", "The address to bind; 0.0.0.0, every interface of the machine, unless set.")
    """The address to bind; `"0.0.0.0"` unless set: every interface of the machine."""
    port: int = option(8000, "8000 unless set; 0 picks a free one.", minimum=0, maximum=65535)
    """8000 unless set; 0 picks a free one."""
    uds: str | os.PathLike[str] | None = option(None, "A Unix socket to listen on, in place of host and port.")
    """The path of a Unix socket to listen on, in place of `host` and `port`. One that is left over is replaced, unless
    a process listens there; it is removed when serving ends."""
    uds_mode: int = option(
        DEFAULT_MODE, "Permissions of the Unix socket, as of chmod; 666 unless set.", reads=octal, metavar="MODE"
    )
    """Permissions of the Unix socket, such as `0o660`: who may write may connect. `0o666` unless set: everybody who
    gets to its directory, as everybody on the machine gets to a port of loopback."""
    fd: int | None = option(None, "An inherited listening socket's descriptor, in place of host and port.", minimum=0)
    """The descriptor of a listening socket that the process has inherited, in place of `host` and `port`; closed with
    the server. Sockets that systemd passes (`LISTEN_FDS`) need no option, and take the place of all others."""
    enable_server: bool | None = option(
        None, "Whether to serve HTTP; decided by what the agent has unless set.", flag="--server/--no-server"
    )
    """True serves HTTP, False does not; None (the default) does when a webhook is registered or routes were added."""
    dev: bool = option(False, "Documentation at /docs, and a restart at every save.")
    """Development mode: documentation at `/docs`; `serve` runs the program again, in a child process, whenever a `.py`
    file is saved. What follows `serve` in the program runs once, in the watching parent."""
    shutdown_timeout: float = option(30.0, "Seconds to finish what was accepted; 30 unless set.")
    """Seconds that a stop may take to finish what was accepted; 30 unless set."""
    handle_signals: bool = option(True, None)
    """Whether SIGINT, SIGTERM and SIGHUP stop the runtime; True unless set, in the main thread alone."""
    certfile: str | os.PathLike[str] | None = option(None, "PEM certificate chain: serves HTTPS.", is_file=True)
    """A PEM file with the certificate chain: serves HTTPS. It is read again when it has changed."""
    keyfile: str | os.PathLike[str] | None = option(None, "PEM private key of the certificate.", is_file=True)
    """A PEM file with the certificate's private key, when it is not in `certfile`."""
    event_buffer: int = option(
        DEFAULT_BUFFER, "Deliveries that may wait on the default bus; 10000 unless set.", minimum=1
    )
    """Deliveries that may wait for a worker on the default bus; 10,000 unless set."""
    event_workers: int = option(DEFAULT_WORKERS, "Deliveries handled at once; 100 unless set.", minimum=1)
    """How many deliveries are handled at once; 100 unless set."""
    max_concurrent_runs: int = option(10_000, "Runs at once over HTTP; 10000 unless set.", minimum=1)
    """Runs at once over HTTP; beyond it a request is answered 503. 10,000 unless set."""
    max_connections: int = option(10_000, "HTTP connections at once; 10000 unless set.", minimum=1)
    """HTTP connections at once; 10,000 unless set."""
    max_memory_bodies: int | None = option(
        None, "Bytes of all unfinished request bodies; 64 MiB unless set.", minimum=1
    )
    """Bytes that all request bodies which are still coming in may hold together; one more is answered 503. Unless set
    64 MiB, or twice the largest `max_body` of a webhook if that is more."""
    max_memory_queued: int = option(
        DEFAULT_MAX_MEMORY, "Bytes that queued runs may hold; 268435456 unless set.", minimum=1
    )
    """Bytes that runs and webhooks which were accepted for later may hold in memory until they begin; beyond it a
    request is answered 503. 256 MiB unless set."""
    max_memory_active: int = option(
        DEFAULT_MAX_MEMORY, "Bytes of requests that are being handled; 268435456 unless set.", minimum=1
    )
    """Bytes that the bodies of requests which are being handled may hold, with the values that they are parsed into;
    beyond it a request is answered 503. Workers may hold as much for accepted runs and webhooks, and wait for room. 256
    MiB unless set."""
    max_memory_runs: int = option(
        DEFAULT_MAX_MEMORY, "Bytes of what is remembered of runs; 268435456 unless set.", minimum=1
    )
    """Bytes that the outputs and events of recent runs may hold; beyond it the oldest are forgotten. 256 MiB unless
    set."""
    max_memory_answers: int = option(
        DEFAULT_MAX_MEMORY, "Bytes of large answers under way; 268435456 unless set.", minimum=1
    )
    """Bytes of answers of 64 KiB and more that may be on their way to clients at once; beyond it a GET is answered 503.
    256 MiB unless set."""
    cors: Sequence[str] = option(
        (), "An origin whose web pages may call; repeatable.", metavar="ORIGIN", check=OriginPolicy
    )
    """Origins whose web pages may call the service from a browser, such as `["https://app.example"]`; `["*"]` is every
    origin. None unless set: pages of other origins are refused."""
    allowed_hosts: Sequence[str] = option(
        (), "A host name to answer to; repeatable.", flag="--allowed-host", metavar="NAME", check=HostPolicy
    )
    """Host names that the service answers to, beside addresses and names of this machine. Unless set, a service on a
    loopback address answers to those alone, any other to every name."""
    public: Sequence[str] = option(
        (), "A route of your own without auth, or a glob; repeatable.", metavar="PATH", check=PublicPaths
    )
    """Paths of routes of your own that need no credentials, or globs over whole paths: `["/status", "/pages/*"]`."""
    rate_limit: str | None = option(
        None, "How often each caller may call, such as 60/minute.", metavar="RATE", check=optional_rate
    )
    """How often each caller may call, such as `"60/minute"`: so many requests at once, and then one by one at this
    rate; beyond it they are answered 429 with `Retry-After`. A caller is a user or an API key (whose own
    `APIKey(rate_limit=...)` comes first), or an address where nobody is asked who he is. Replicas share it where the
    bus or the sessions are on Redis. Any number unless set."""
    address_rate_limit: str | None = option(
        None, "How often each address may call, such as 600/minute.", metavar="RATE", check=optional_rate
    )
    """The same for each address, whoever calls from there, and before anybody is asked who he is."""
    trusted_proxies: Sequence[str] = option(
        (),
        "A proxy, or a network of them, whose X-Forwarded-* headers count; repeatable.",
        flag="--trusted-proxy",
        metavar="ADDRESS",
        check=checked_networks,
    )
    """Addresses and networks of proxies whose `Forwarded` or `X-Forwarded-*` headers decide client, scheme and host:
    `["127.0.0.1", "10.0.0.0/8"]`, or `["unix"]` for whoever connects to the Unix socket; none unless set."""
    root_path: str = option(
        "", "The prefix under which a proxy serves the agent.", metavar="PATH", check=checked_root_path
    )
    """The prefix under which a proxy serves the agent, such as `"/agent"`, whether the proxy takes it off or not."""
    access_log: bool = option(False, "Log a line a request.")
    """Whether every request is logged, by the logger `definable.access`; False unless set."""
    sockets: Sequence[socket.socket] = ()
    """Listening sockets in place of those that `host` and `port` name; closed with the server. Not an option of
    `serve`: in development mode a parent keeps them over restarts."""

    def __post_init__(self) -> None:
        if not isinstance(self.host, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"host={self.host!r}: an address or a host's name, such as '127.0.0.1'")
        if not isinstance(self.shutdown_timeout, int | float):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"shutdown_timeout={self.shutdown_timeout!r}: seconds, such as float(...) of it")
        if not self.shutdown_timeout >= 0:
            raise ConfigurationError(f"shutdown_timeout={self.shutdown_timeout!r}: seconds, 0 or more")
        defaults = {each.name: each.default for each in fields(self)}
        for name, each in options().items():
            value = getattr(self, name)
            if each.minimum is not None and (value is not None or defaults[name] is not None):
                check_number(name, value, each.minimum, each.maximum)
            if each.check is not None:
                if each.is_list:
                    check_list(name, value)
                each.check(value)
        if self.keyfile is not None and self.certfile is None:
            raise ConfigurationError(f"keyfile={os.fspath(self.keyfile)!r} needs its certfile")
        self._check_address()

    def _check_address(self) -> None:
        if self.uds is not None and self.fd is not None:
            raise ConfigurationError(f"uds={os.fspath(self.uds)!r} and fd={self.fd!r}: give one of them")
        if self.uds is not None and not os.fspath(self.uds):
            raise ConfigurationError("uds='': the path of a Unix socket, such as '/run/agent/http.sock'")
        if not isinstance(self.uds_mode, int) or not 0 <= self.uds_mode <= 0o777:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"uds_mode={self.uds_mode!r}: permissions from 0o000 to 0o777, such as 0o660")

    @property
    def address(self) -> BoundAddress:
        """Where to listen."""
        if self.uds is None and self.fd is None:
            return self.host, self.port
        uds = None if self.uds is None else os.fspath(self.uds)
        return uds, self.uds_mode, self.fd


def options() -> dict[str, Option]:
    """The options of `serve` by name."""
    return {each.name: each.metadata["option"] for each in fields(ServeSettings) if each.metadata}


def check_number(name: str, value: object, minimum: int, maximum: int | None) -> None:
    """Refuse what is no whole number between two others.

    Raises:
        ConfigurationError: It is none.
    """
    if not isinstance(value, int):  # say the text of an environment variable
        raise ConfigurationError(f"{name}={value!r}: a whole number, such as int(...) of it")
    if value < minimum or (maximum is not None and value > maximum):
        bounds = (
            f"at least {minimum}" if maximum is None else f"{minimum + 1} to {maximum}, or {minimum} for a free one"
        )
        raise ConfigurationError(f"{name}={value!r}: {bounds}")


def check_list(name: str, value: object) -> None:
    """Refuse a text where a list is wanted.

    Raises:
        ConfigurationError: It is no list.
    """
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ConfigurationError(f"{name}={value!r}: a list, such as [{value!r}]")


def settings_of(options: ServeOptions) -> ServeSettings:
    """The settings that `serve` was called with.

    Raises:
        TypeError: There is no such option; the message names the nearest that there is.
        ConfigurationError: A value is out of its range, or two cannot be combined.
    """
    known = ServeOptions.__annotations__
    if unknown := [name for name in options if name not in known]:
        unknown_arguments("serve()", unknown, known, {})
    return ServeSettings(**options)
