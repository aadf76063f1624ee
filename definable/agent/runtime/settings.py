"""How an agent is served: the options of `serve` with their defaults, checked once."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from definable.agent.bus.memory import DEFAULT_BUFFER
from definable.agent.options import ServeOptions
from definable.errors import ConfigurationError
from definable.original_library import unknown_arguments

from .http.auth import PublicPaths
from .http.browsers import HostPolicy, OriginPolicy
from .http.forwarded import checked_networks, checked_root_path

DEFAULT_MAX_MEMORY = 256 * 1024 * 1024
"""Bytes of each of the `max_memory_...` bounds."""

LIMITS = (
    "event_buffer",
    "event_workers",
    "max_concurrent_runs",
    "max_connections",
    "max_memory_queued",
    "max_memory_active",
    "max_memory_runs",
    "max_memory_answers",
)
"""Options that are a number of at least 1."""

DEFAULT_WORKERS = 100
"""Deliveries that are handled at once: handlers wait for models most of their time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """The options of `serve`; `definable.agent.options.ServeOptions` says what each is.

    Raises:
        ConfigurationError: A value is out of its range, or two cannot be combined.
    """

    name: str | None = None
    host: str = "0.0.0.0"
    port: int = 8000
    enable_server: bool | None = None
    dev: bool = False
    shutdown_timeout: float = 30.0
    handle_signals: bool = True
    certfile: str | os.PathLike[str] | None = None
    keyfile: str | os.PathLike[str] | None = None
    event_buffer: int = DEFAULT_BUFFER
    event_workers: int = DEFAULT_WORKERS
    max_concurrent_runs: int = 10_000
    max_connections: int = 10_000
    max_memory_bodies: int | None = None
    max_memory_queued: int = DEFAULT_MAX_MEMORY
    max_memory_active: int = DEFAULT_MAX_MEMORY
    max_memory_runs: int = DEFAULT_MAX_MEMORY
    max_memory_answers: int = DEFAULT_MAX_MEMORY
    cors: Sequence[str] = ()
    allowed_hosts: Sequence[str] = ()
    public: Sequence[str] = ()
    trusted_proxies: Sequence[str] = ()
    root_path: str = ""
    access_log: bool = False
    sockets: Sequence[socket.socket] = ()
    """Listening sockets in place of those that `host` and `port` name; closed with the server. Not an option of
    `serve`: in development mode a parent keeps them over restarts."""

    def __post_init__(self) -> None:
        if not isinstance(self.host, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"host={self.host!r}: an address or a host's name, such as '127.0.0.1'")
        for name in ("port", *LIMITS):
            if not isinstance(getattr(self, name), int):  # say the text of an environment variable
                raise ConfigurationError(f"{name}={getattr(self, name)!r}: a whole number, such as int(...) of it")
        if not isinstance(self.shutdown_timeout, int | float):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"shutdown_timeout={self.shutdown_timeout!r}: seconds, such as float(...) of it")
        if not 0 <= self.port <= 65535:
            raise ConfigurationError(f"port={self.port!r}: 1 to 65535, or 0 for a free one")
        if not self.shutdown_timeout >= 0:
            raise ConfigurationError(f"shutdown_timeout={self.shutdown_timeout!r}: seconds, 0 or more")
        for limit in LIMITS:
            if getattr(self, limit) < 1:
                raise ConfigurationError(f"{limit}={getattr(self, limit)!r}: at least 1")
        self._check_memory("max_memory_bodies")
        if self.keyfile is not None and self.certfile is None:
            raise ConfigurationError(f"keyfile={os.fspath(self.keyfile)!r} needs its certfile")
        self._check_lists()

    def _check_lists(self) -> None:
        for option in ("cors", "allowed_hosts", "public", "trusted_proxies"):
            values = getattr(self, option)
            if isinstance(values, str) or not isinstance(values, Sequence):
                raise ConfigurationError(f"{option}={values!r}: a list, such as [{values!r}]")
        OriginPolicy(self.cors)
        HostPolicy(self.allowed_hosts)
        PublicPaths(self.public)
        checked_networks(self.trusted_proxies)
        checked_root_path(self.root_path)

    def _check_memory(self, name: str) -> None:
        value: object = getattr(self, name)
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ConfigurationError(f"{name}={value!r}: bytes, a whole number of at least 1")


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
