"""One HTTP client for every chat platform: requests, bounded downloads, proxies, and a token that is never shown.

A platform's own client is built on it: it says what an answer means (a result, or an `InterfaceError`), which rate
limits hold, and with `errors.retried` which failures are tried again.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, asynccontextmanager
from functools import partial
from math import isfinite
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx2

from definable.concurrency.backoff import Backoff
from definable.errors import ConfigurationError, MissingExtra
from definable.half_read_body import may_be_half_read

from .errors import InterfaceConnectionError, InterfaceMessageError, InterfaceRateLimitError, RequestNotSent, retried

TOKEN = ":token"
"""Stands for the token in the path of a request: HTTP clients put URLs into logs and exceptions."""

LIMITS = httpx2.Limits(max_connections=64, max_keepalive_connections=32, keepalive_expiry=60.0)
"""Of one platform, the connection of a long poll included."""

PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")

SOCKS_SCHEMES = {"socks": "socks5h"}
"""Desktops put `socks://` into `ALL_PROXY`. The proxy looks names up, as it does for `socks5h:`."""

DOWNLOAD_BACKOFF = Backoff(initial=0.5, jitter=0.25, max_tries=5, max_retry_after=60.0)

_WITH_TOKEN = "definable.with_token"
"""Marks requests to the platform's API, with a token of their own or none; a download's address comes from a message,
and gets no token."""

_UNSENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError)
"""Failures before the first byte of a request was sent."""


class PlatformClient:
    """Makes requests to one platform. Made by `open_client`.

    Args:
        platform: Its name, for errors: `"Telegram"`.
        client: Whose base URL is the API's.
        headers: Of requests to the API, the one with the token among them; downloads go without.
    """

    def __init__(self, platform: str, client: httpx2.AsyncClient, headers: Mapping[str, str]) -> None:
        self._platform = platform
        self._client = client
        self._headers = headers

    async def request(
        self,
        method: str,
        path: str,
        *,
        name: str | None = None,
        held_open: float = 0.0,
        headers: Mapping[str, str] | None = None,
        token: str = "",
        **content: Any,
    ) -> httpx2.Response:
        """Make a request to the API, once, and return its answer, whatever it says.

        Args:
            method: `"GET"`.
            path: Below the base URL, in which `TOKEN` stands for the token; or a whole URL.
            name: What errors call the request; method and path when None.
            held_open: Seconds that the platform may hold the request open, beside the time it may take to answer.
            headers: In place of those of requests to the API.
            token: What `TOKEN` stands for in this request; the client's when empty.
            content: `json`, `data` and `files`, as httpx2 takes them.

        Raises:
            RequestNotSent: The platform cannot be reached.
            InterfaceConnectionError: There was no answer: the request may have arrived.
        """
        name = name or f"{method} {path}"
        timeout = httpx2.Timeout(self._client.timeout)
        timeout.read = (timeout.read or 0.0) + held_open
        try:
            return await self._client.request(
                method,
                path,
                headers=self._headers if headers is None else headers,
                timeout=timeout,
                extensions={_WITH_TOKEN: token},
                **content,
            )
        except _UNSENT as error:
            raise RequestNotSent(f"{name}: {self._platform} cannot be reached: {_describe(error)}") from None
        except httpx2.HTTPError as error:
            raise InterfaceConnectionError(f"{name}: no answer from {self._platform}: {_describe(error)}") from None

    async def download(self, url: str, max_size: int, *, headers: Mapping[str, str] | None = None) -> bytes | None:
        """Fetch a file, again where that may help; None when it is larger than `max_size` bytes.

        Args:
            url: A whole URL, or a path below the API's base URL, in which `TOKEN` stands for the token.
            max_size: Bytes.
            headers: Of the request; none when None.

        Raises:
            InterfaceMessageError: It is gone, or refused.
            InterfaceConnectionError: It could not be fetched.
            InterfaceRateLimitError: The platform's limit outlasts the tries.
        """
        once = partial(self._download_once, url, max_size, headers)
        return await retried(once, DOWNLOAD_BACKOFF, InterfaceConnectionError, InterfaceRateLimitError)

    async def _download_once(self, url: str, max_size: int, headers: Mapping[str, str] | None) -> bytes | None:
        extensions = {_WITH_TOKEN: ""} if url.startswith("/") else {}
        content = bytearray()
        try:
            async with self._client.stream("GET", url, headers=headers, extensions=extensions) as response:
                if not response.is_success:
                    raise self._not_fetched(response)
                async with aclosing(response.aiter_bytes()) as chunks:
                    async for chunk in chunks:
                        content += chunk
                        if len(content) > max_size:
                            return None
        except httpx2.HTTPError as error:
            raise InterfaceConnectionError(f"a file could not be fetched: {_describe(error)}") from None
        return bytes(content)

    def _not_fetched(self, response: httpx2.Response) -> Exception:
        status = response.status_code
        words = f"a file could not be fetched: {self._platform} says {status}"
        if status == 429:
            return InterfaceRateLimitError(words, retry_after=number(response.headers.get("retry-after")))
        kind = InterfaceConnectionError if status >= 500 else InterfaceMessageError
        return kind(words, status=status)


@asynccontextmanager
async def open_client(
    platform: str,
    base_url: str,
    *,
    connect_timeout: float,
    request_timeout: float,
    token: str = "",
    headers: Mapping[str, str] | None = None,
    proxy: str | None = None,
) -> AsyncGenerator[PlatformClient, None]:
    """A platform's HTTP client, while the context is open.

    Args:
        platform: Its name, for errors.
        base_url: Of the API.
        connect_timeout: Seconds.
        request_timeout: Seconds that the platform may take to answer.
        token: What `TOKEN` in a path stands for.
        headers: Of requests to the API.
        proxy: What all requests go through; None: what the environment says (`HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`).

    Raises:
        ConfigurationError: The proxy of the API is none, or a SOCKS proxy, and the extra `socks` is not installed.
    """
    transport = _Transport(token, proxy)
    transport.transport_for(httpx2.URL(base_url))  # a proxy that cannot be used is said at once
    async with httpx2.AsyncClient(
        base_url=base_url,
        transport=transport,
        timeout=httpx2.Timeout(request_timeout, connect=connect_timeout),
        event_hooks={"response": [may_be_half_read]},
    ) as client:
        yield PlatformClient(platform, client, headers or {})


class _Transport(httpx2.AsyncBaseTransport):
    """Puts the token into a request on its way to the wire, and takes the proxy for its host.

    A client with a transport of its own looks for neither proxies nor `NO_PROXY`.
    """

    def __init__(self, token: str, proxy: str | None) -> None:
        self._token = token.encode()
        self._proxies = Proxies(proxy)
        self._by_proxy: dict[str | None, httpx2.AsyncHTTPTransport] = {}

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        return await self.transport_for(request.url).handle_async_request(self._with_token(request))

    def _with_token(self, request: httpx2.Request) -> httpx2.Request:
        token = request.extensions.get(_WITH_TOKEN, "").encode() or self._token
        if not token or _WITH_TOKEN not in request.extensions:
            return request
        path = request.url.raw_path.replace(TOKEN.encode(), token, 1)
        return httpx2.Request(
            request.method,
            request.url.copy_with(raw_path=path),
            headers=request.headers,
            stream=request.stream,
            extensions=request.extensions,
        )

    def transport_for(self, url: httpx2.URL) -> httpx2.AsyncHTTPTransport:
        """Connections to a host, or to its proxy."""
        proxy = self._proxies.address(url.scheme, url.host)
        transport = self._by_proxy.get(proxy)
        if transport is None:
            transport = self._by_proxy[proxy] = _transport_through(proxy)
        return transport

    async def aclose(self) -> None:
        for transport in self._by_proxy.values():
            await transport.aclose()


class Proxies:
    """Which proxy a host is reached through: one for all, or what the environment says at construction.

    Args:
        proxy: Its URL; None: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`.
    """

    def __init__(self, proxy: str | None) -> None:
        self._for_all = proxy
        self._by_scheme = {} if proxy else getproxies()

    def address(self, scheme: str, host: str) -> str | None:
        """The URL of a host's proxy, as HTTP and WebSocket clients take it; None: it is reached directly.

        Args:
            scheme: `"http"`, `"https"`, `"ws"` or `"wss"`.
            host: A name or an address.

        Raises:
            ConfigurationError: It is no proxy's URL; the message does not repeat it, since it may hold a password.
        """
        if self._for_all:
            return proxy_address(self._for_all)
        schemes = (scheme, scheme.replace("ws", "http"), "all")
        proxy = next((self._by_scheme[each] for each in schemes if self._by_scheme.get(each)), None)
        return None if proxy is None or proxy_bypass(host) else proxy_address(proxy)


def proxy_address(proxy: str) -> str:
    """A proxy's URL with a scheme that clients know; the environment's may have none, or `socks:`.

    Raises:
        ConfigurationError: As `Proxies.address`.
    """
    address = proxy if "://" in proxy else f"http://{proxy}"
    scheme, _, rest = address.partition("://")
    scheme = SOCKS_SCHEMES.get(scheme.lower(), scheme.lower())
    try:
        is_address = scheme in PROXY_SCHEMES and bool(urlsplit(address).hostname) and urlsplit(address).port != 0
    except ValueError:
        is_address = False
    if not is_address:
        raise ConfigurationError(
            "proxy=..., or HTTPS_PROXY or ALL_PROXY of the environment: a URL such as 'http://user:password@host:3128' "
            "or 'socks5://host:1080'"
        )
    return f"{scheme}://{rest}"


class _SocksTransport(httpx2.AsyncHTTPTransport):
    """Closes a connection whose handshake with the proxy fails, and says that nothing was sent.

    httpcore2 leaves it open, and lets out socksio's exceptions (https://github.com/pydantic/httpx2/pull/1009 is about
    the same handshake).
    """

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        is_broken, opened = False, list[Any]()

        async def trace(event: str, details: Mapping[str, Any]) -> None:
            nonlocal is_broken
            if event == "socks.connect_tcp.complete":
                opened.append(details["return_value"])
            elif event == "socks.setup_socks5_connection.failed":
                is_broken = True
                await opened[-1].aclose()

        request.extensions = {**request.extensions, "trace": trace}
        try:
            return await super().handle_async_request(request)
        except Exception as error:
            if is_broken:
                raise httpx2.ProxyError(f"the SOCKS proxy refuses: {error or type(error).__name__}") from error
            raise


def _transport_through(proxy: str | None) -> httpx2.AsyncHTTPTransport:
    kind = _SocksTransport if proxy is not None and proxy.startswith("socks") else httpx2.AsyncHTTPTransport
    try:
        return kind(limits=LIMITS, proxy=proxy)
    except ImportError:
        raise MissingExtra("a SOCKS proxy needs socksio: pip install 'definable[socks]'") from None


def number(value: object) -> float | None:
    """A number that is no less than 0, as JSON or a header has it; None for everything else."""
    try:
        parsed = float(value) if isinstance(value, int | float | str) else -1.0
    except ValueError:
        return None
    return parsed if isfinite(parsed) and parsed >= 0 else None


def _describe(error: httpx2.HTTPError) -> str:
    """What an error says, less where it came from."""
    return f"{type(error).__name__} {error}".rstrip()
