"""The keywords of `serve`, `aserve`, `running` and `asgi`, for type checkers.

Made by `python tests/serve_options.py` from `agent/runtime/settings.py`: change that.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypedDict


class ServeOptions(TypedDict, total=False):
    """How an agent is served. All are optional."""

    name: str | None
    """Shown in the banner and in logs; the agent's own name when None."""
    host: str
    """The address to bind; `"0.0.0.0"` unless set: every interface of the machine."""
    port: int
    """8000 unless set; 0 picks a free one."""
    uds: str | os.PathLike[str] | None
    """The path of a Unix socket to listen on, in place of `host` and `port`. One that is left over is replaced, unless
    a process listens there; it is removed when serving ends."""
    uds_mode: int
    """Permissions of the Unix socket, such as `0o660`: who may write may connect. `0o666` unless set: everybody who
    gets to its directory, as everybody on the machine gets to a port of loopback."""
    fd: int | None
    """The descriptor of a listening socket that the process has inherited, in place of `host` and `port`; closed with
    the server. Sockets that systemd passes (`LISTEN_FDS`) need no option, and take the place of all others."""
    enable_server: bool | None
    """True serves HTTP, False does not; None (the default) does when a webhook is registered or routes were added."""
    dev: bool
    """Development mode: documentation at `/docs`; `serve` runs the program again, in a child process, whenever a `.py`
    file is saved. What follows `serve` in the program runs once, in the watching parent."""
    shutdown_timeout: float
    """Seconds that a stop may take to finish what was accepted; 30 unless set."""
    handle_signals: bool
    """Whether SIGINT, SIGTERM and SIGHUP stop the runtime; True unless set, in the main thread alone."""
    certfile: str | os.PathLike[str] | None
    """A PEM file with the certificate chain: serves HTTPS. It is read again when it has changed."""
    keyfile: str | os.PathLike[str] | None
    """A PEM file with the certificate's private key, when it is not in `certfile`."""
    event_buffer: int
    """Deliveries that may wait for a worker on the default bus; 10,000 unless set."""
    event_workers: int
    """How many deliveries are handled at once; 100 unless set."""
    max_concurrent_runs: int
    """Runs at once over HTTP; beyond it a request is answered 503. 10,000 unless set."""
    max_connections: int
    """HTTP connections at once; 10,000 unless set."""
    max_memory_bodies: int | None
    """Bytes that all request bodies which are still coming in may hold together; one more is answered 503. Unless set
    64 MiB, or twice the largest `max_body` of a webhook if that is more."""
    max_memory_queued: int
    """Bytes that runs and webhooks which were accepted for later may hold in memory until they begin; beyond it a
    request is answered 503. 256 MiB unless set."""
    max_memory_active: int
    """Bytes that the bodies of requests which are being handled may hold, with the values that they are parsed into;
    beyond it a request is answered 503. Workers may hold as much for accepted runs and webhooks, and wait for room. 256
    MiB unless set."""
    max_memory_runs: int
    """Bytes that the outputs and events of recent runs may hold; beyond it the oldest are forgotten. 256 MiB unless
    set."""
    max_memory_answers: int
    """Bytes of answers of 64 KiB and more that may be on their way to clients at once; beyond it a GET is answered 503.
    256 MiB unless set."""
    cors: Sequence[str]
    """Origins whose web pages may call the service from a browser, such as `["https://app.example"]`; `["*"]` is every
    origin. None unless set: pages of other origins are refused."""
    allowed_hosts: Sequence[str]
    """Host names that the service answers to, beside addresses and names of this machine. Unless set, a service on a
    loopback address answers to those alone, any other to every name."""
    public: Sequence[str]
    """Paths of routes of your own that need no credentials, or globs over whole paths: `["/status", "/pages/*"]`."""
    rate_limit: str | None
    """How often each caller may call, such as `"60/minute"`: so many requests at once, and then one by one at this
    rate; beyond it they are answered 429 with `Retry-After`. A caller is a user or an API key (whose own
    `APIKey(rate_limit=...)` comes first), or an address where nobody is asked who he is. Replicas share it where the
    bus or the sessions are on Redis. Any number unless set."""
    address_rate_limit: str | None
    """The same for each address, whoever calls from there, and before anybody is asked who he is."""
    trusted_proxies: Sequence[str]
    """Addresses and networks of proxies whose `Forwarded` or `X-Forwarded-*` headers decide client, scheme and host:
    `["127.0.0.1", "10.0.0.0/8"]`, or `["unix"]` for whoever connects to the Unix socket; none unless set."""
    root_path: str
    """The prefix under which a proxy serves the agent, such as `"/agent"`, whether the proxy takes it off or not."""
    access_log: bool
    """Whether every request is logged, by the logger `definable.access`; False unless set."""
