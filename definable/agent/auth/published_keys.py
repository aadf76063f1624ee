"""The keys that an identity provider publishes: fetched, kept for a bounded time, and fetched again when they change.

`JWTAuth` has one for a `jwks_url`, or for an `issuer` whose key set is found by OpenID Connect Discovery. While the
provider is away the known keys go on.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from math import inf
from typing import Any, cast
from urllib.parse import urlsplit

import anyio
import httpx2

from definable.concurrency.clock import current_clock
from definable.concurrency.logs import logger_named
from definable.concurrency.rate_limits import MemoryLimits, Rate
from definable.errors import ConfigurationError
from definable.half_read_body import may_be_half_read

from .verifying_keys import VerifyingKey, parsed_json, usable_keys

logger: logging.Logger = logger_named(__name__)

REFRESH_INTERVAL = 300.0
"""Seconds after which the keys are fetched again: so long may a key that was taken back go on."""

RETRY_INTERVAL = 30.0
"""Seconds between two tries while the identity provider is away."""

FETCH_PACE = Rate(3, 15.0)
"""Of fetches, however many tokens name keys that are not known; those tokens wait for the next."""

MAX_AGE = 3600.0
"""Seconds for which the known keys go on while the identity provider is away."""

FETCH_TIMEOUT = 5.0
"""Seconds for a whole document."""

MAX_DOCUMENT = 512 * 1024
"""Bytes."""

FAILURES = (httpx2.HTTPError, httpx2.InvalidURL, OSError, TimeoutError, ValueError)

PRIVATE_ENDINGS = (".localhost", ".local", ".internal", ".lan", ".svc")
"""Of host names that exist in private networks alone."""


class PublishedKeys:
    """The key set at a URL.

    Args:
        jwks_url: Where it is; None where discovery says it.
        issuer: Whose discovery document says it; None with a URL.
        algorithms: Those that are accepted.

    Raises:
        ConfigurationError: The URL is none, or its answer could be forged on its way.
    """

    def __init__(self, jwks_url: str | None, issuer: str | None, algorithms: Sequence[str]) -> None:
        self._where = checked_url("jwks_url", jwks_url) if jwks_url is not None else checked_url("issuer", issuer)
        self._jwks_url = jwks_url
        self._discovery = (
            None if jwks_url is not None else f"{self._where.rstrip('/')}/.well-known/openid-configuration"
        )
        self._algorithms = algorithms
        self._keys: tuple[VerifyingKey, ...] = ()
        self._fetched = self._tried = -inf
        """When the fetch began that brought the keys, and the last that came to its end; Unix seconds."""
        self._pace = MemoryLimits()
        self._lock = anyio.Lock()
        self._client: httpx2.AsyncClient | None = None

    def __repr__(self) -> str:
        return repr(self._where)

    @property
    def keys(self) -> tuple[VerifyingKey, ...]:
        """Those that are known, unless they are too old."""
        return self._keys if current_clock().now() - self._fetched <= MAX_AGE else ()

    @property
    def is_due(self) -> bool:
        """Whether they are to be fetched by who needs them: no service does that, as of a provider that is set late."""
        now = current_clock().now()
        return self._client is None and now - self._fetched > REFRESH_INTERVAL and now - self._tried > RETRY_INTERVAL

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None, None]:
        """Keep the keys fresh while the context is open; a service has it around its requests."""
        if self._client is not None:  # of another service
            yield
            return
        async with a_client() as self._client, anyio.create_task_group() as group:
            group.start_soon(self._keep_fresh)
            try:
                yield
            finally:
                self._client = None
                group.cancel_scope.cancel()

    async def _keep_fresh(self) -> None:
        while True:
            is_fetched = await self.fetched_for(lambda: True)
            await anyio.sleep(REFRESH_INTERVAL if is_fetched else RETRY_INTERVAL)

    async def fetched_for(self, lacks: Callable[[], bool]) -> bool:
        """Fetch the keys unless what was lacking has come meanwhile: one fetch for however many wait here.

        Args:
            lacks: Whether something is lacking still.

        Returns:
            Whether what is lacking now is in no key set; False when the identity provider is away.
        """
        when = current_clock().now()
        async with self._lock:
            if lacks() and self._tried < when:
                while (early := self._pace.taken("", FETCH_PACE, current_clock().now())) > 0:  # noqa: ASYNC110
                    await anyio.sleep(min(early, FETCH_PACE.interval))
                await self._fetch()
            return self._fetched >= when or not lacks()

    async def _fetch(self) -> None:
        begun = current_clock().now()
        try:
            with anyio.fail_after(FETCH_TIMEOUT):
                if self._client is not None:
                    keys = await self._asked(self._client)
                else:
                    async with a_client() as client:
                        keys = await self._asked(client)
        except FAILURES as error:
            why = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            left = self._fetched + MAX_AGE - begun
            effect = f"the known ones go on for {left:.0f} s" if left > 0 else "no token can be judged"
            logger.warning("the keys of %r cannot be fetched, %s: %s", self, effect, why)
            self._tried = begun
            if self._discovery is not None:
                self._jwks_url = None  # which may have moved
            return
        self._keys, self._fetched, self._tried = tuple(keys), begun, begun

    async def _asked(self, client: httpx2.AsyncClient) -> Sequence[VerifyingKey]:
        """The keys as the identity provider has them now; raises one of `FAILURES`."""
        if self._jwks_url is None:
            self._jwks_url = await self._discovered(client)
        keys, reason = usable_keys(await document(client, self._jwks_url), self._algorithms)
        if not keys:
            raise ValueError(f"no key at {self._jwks_url!r} can verify tokens: {reason or 'the set is empty'}")
        return keys

    async def _discovered(self, client: httpx2.AsyncClient) -> str:
        """The URL of the key set (https://openid.net/specs/openid-connect-discovery-1_0.html, 4)."""
        assert self._discovery is not None
        found = await document(client, self._discovery)
        issuer, url = found.get("issuer"), found.get("jwks_uri")
        if not isinstance(issuer, str) or issuer.rstrip("/") != self._where.rstrip("/"):
            raise ValueError(f"{self._discovery!r} is of another issuer: {issuer!r}")
        try:
            url = checked_url("jwks_uri", url)
        except ConfigurationError as error:
            raise ValueError(str(error)) from None
        return url


def a_client() -> httpx2.AsyncClient:
    """Uses the proxies that the environment names. Redirects are not followed: keys come from where the user said."""
    return httpx2.AsyncClient(
        timeout=FETCH_TIMEOUT,
        follow_redirects=False,
        headers={"accept": "application/json"},
        event_hooks={"response": [may_be_half_read]},
    )


async def document(client: httpx2.AsyncClient, url: str) -> Mapping[str, Any]:
    """A JSON object at a URL, of a bounded size; raises one of `FAILURES`."""
    content = bytearray()
    async with client.stream("GET", url) as response:
        if response.status_code != 200:
            raise ValueError(f"{url!r} was answered {response.status_code}")
        async with aclosing(response.aiter_bytes()) as chunks:
            async for chunk in chunks:
                content += chunk
                if len(content) > MAX_DOCUMENT:
                    raise ValueError(f"{url!r} has more than {MAX_DOCUMENT} bytes")
    found = parsed_json(bytes(content))
    if not isinstance(found, dict):
        raise ValueError(f"{url!r} was not answered with a JSON object")
    return cast("dict[str, Any]", found)


def checked_url(argument: str, url: object) -> str:
    """A URL whose answer nobody on its way can forge: of HTTPS, or in a private network.

    Raises:
        ConfigurationError: It is none.
    """
    try:
        parts = urlsplit(url) if isinstance(url, str) else None
        host = None if parts is None else parts.hostname
    except ValueError:
        parts = host = None
    if parts is None or not host or parts.scheme not in ("http", "https"):
        raise ConfigurationError(f"JWTAuth({argument}={url!r}): a URL, such as 'https://id.example'")
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError(f"JWTAuth({argument}=...): a URL without user and password")
    if parts.scheme == "http" and not is_private(host):
        raise ConfigurationError(f"JWTAuth({argument}={url!r}): https, since who can change the answer can sign tokens")
    assert isinstance(url, str)
    return url


def is_private(host: str) -> bool:
    """Whether a host is of this machine or a private network, as of containers: an address, or a name of no domain."""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host or f".{host}".endswith(PRIVATE_ENDINGS)
