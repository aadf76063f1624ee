"""The Web API: its methods, what its answers mean, and how fast they may be called.

```
InterfaceError
├── InterfaceAuthenticationError   the token is refused: invalid_auth, token_revoked, account_inactive
├── InterfaceRateLimitError        429, with Retry-After
├── InterfaceMessageError
│   └── SlackRefusal               every other code: channel_not_found, invalid_blocks, missing_scope
└── InterfaceConnectionError       5xx, internal_error, an answer that is none
    └── RequestNotSent             it may be sent again; service_unavailable too
```
Sources: https://docs.slack.dev/apis/web-api and https://docs.slack.dev/apis/web-api/rate-limits
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, cast
from urllib.parse import urlsplit

import anyio

from definable.agent.interface.errors import (
    InterfaceAuthenticationError,
    InterfaceConnectionError,
    InterfaceError,
    InterfaceMessageError,
    InterfaceRateLimitError,
    RequestNotSent,
    retried,
)
from definable.agent.interface.http_client import PlatformClient, number, open_client
from definable.agent.interface.rate_limit import TokenBucket
from definable.concurrency.backoff import Backoff

from .config import SlackConfig

MAX_FILE_SIZE = 20 * 1024 * 1024
"""Bytes of a file that is fetched."""

RETRY_BACKOFF = Backoff(initial=0.5, jitter=0.25, max_tries=5, max_retry_after=120.0)

ONCE = replace(RETRY_BACKOFF, max_tries=1)

DEFAULT_RETRY_AFTER = 1.0
"""Seconds, where a 429 does not say how long."""

SLACK_HOSTS = (".slack.com", ".slack-gov.com")
"""Files and response URLs are on hosts below these; no other one gets a token or an answer."""

LONGEST_WAIT = 60.0
"""Seconds that a call waits for its turn."""

MAX_BUCKETS = 10_000
"""Buckets that are remembered, before those that are full are forgotten."""

TIER_3, TIER_4 = (45 / 60, 5.0), (90 / 60, 10.0)
"""Calls a second and at once; in any minute below the 50 and 100 that Slack allows."""

LIMITS = {
    "chat.postMessage": (1.0, 5.0),  # of each channel: one a second, in short bursts more
    "chat.update": TIER_3,
    "chat.delete": TIER_3,
    "conversations.replies": TIER_3,
    "users.info": TIER_4,
    "files.info": TIER_4,
    "files.getUploadURLExternal": TIER_4,
    "files.completeUploadExternal": TIER_4,
}

MAY_BE_REPEATED = frozenset(
    {"auth.test", "conversations.replies", "users.info", "files.info", "apps.connections.open", "chat.update"}
)
"""Methods whose call may arrive twice. A post has no idempotency key: after an answer that did not come it is not made
again."""

REFUSED_TOKENS = frozenset(
    "invalid_auth not_authed account_inactive token_revoked token_expired not_allowed_token_type access_denied "
    "org_login_required team_access_not_granted user_removed_from_team enterprise_is_restricted "
    "ekm_access_denied".split()
)

TRANSIENT = frozenset({"internal_error", "fatal_error", "request_timeout", "team_added_to_org"})

UNWRITABLE = frozenset(
    "channel_not_found not_in_channel is_archived restricted_action restricted_action_read_only_channel "
    "restricted_action_thread_locked messages_tab_disabled cannot_dm_bot user_disabled missing_scope".split()
)
"""Codes: the chat cannot be written to."""


class SlackRefusal(InterfaceMessageError):
    """Slack refuses a call as it stands.

    Args:
        message: What happened.
        code: Slack's.
    """

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message, status=403 if code in UNWRITABLE else 400)
        self.code = code


class SlackAPI:
    """Calls methods of the Web API within its rate limits.

    Args:
        client: Made by `open_api`.
        config: Says where the API is, and with which token sockets are opened.
    """

    def __init__(self, client: PlatformClient, config: SlackConfig) -> None:
        self._client = client
        self._config = config
        self._limits = Limits()

    async def call(self, method: str, *, backoff: Backoff = RETRY_BACKOFF, **parameters: Any) -> dict[str, Any]:
        """Call a method, again where that cannot do it twice.

        Args:
            method: Its name.
            backoff: Between the tries.
            parameters: Those that are None are left out.

        Raises:
            InterfaceError: It failed; see the module.
        """
        errors: tuple[type[InterfaceError], ...] = (RequestNotSent, InterfaceRateLimitError)
        if method in MAY_BE_REPEATED:
            errors = (InterfaceConnectionError, InterfaceRateLimitError)
        return await retried(partial(self._call_once, method, parameters), backoff, *errors)

    async def _call_once(self, method: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        key = (method, str(parameters["channel"]) if method == "chat.postMessage" else "")
        await self._wait_for_turn(key)
        # A form, whose values may be JSON, is what all methods take; some take no JSON.
        form = {name: _form_value(value) for name, value in parameters.items() if value is not None}
        headers = {"Authorization": f"Bearer {self._config.app_token}"} if method == "apps.connections.open" else None
        response = await self._client.request("POST", f"/{method}", name=method, data=form, headers=headers)
        try:
            return result_of(method, response.status_code, response.headers, response.content)
        except InterfaceRateLimitError as error:
            wait = DEFAULT_RETRY_AFTER if error.retry_after is None else error.retry_after
            self._limits.refused(key, wait, anyio.current_time())
            raise

    async def _wait_for_turn(self, key: tuple[str, str]) -> None:
        """Turns are taken in order: a chat's last edit comes, however many other chats are edited."""
        wait = self._limits.wait(key, anyio.current_time())
        if wait > LONGEST_WAIT:
            raise InterfaceRateLimitError(f"{key[0]}: Slack rate limit: retry in {wait:.0f} s", retry_after=wait)
        await anyio.sleep(self._limits.take(key, anyio.current_time()))

    async def fetch(self, url: str) -> bytes | None:
        """Fetch a private file; None when it is too large.

        Raises:
            InterfaceError: It could not be fetched, or its address is none of Slack's, which gets no token.
        """
        if not self._is_slack(url):
            raise InterfaceMessageError(f"a file is not fetched from {urlsplit(url).hostname}, which is not Slack")
        headers = {"Authorization": f"Bearer {self._config.bot_token}"}
        return await self._client.download(url, MAX_FILE_SIZE, headers=headers)

    async def upload(self, url: str, content: bytes) -> None:
        """Send a file's content to the address that `files.getUploadURLExternal` named.

        Raises:
            InterfaceError: It was not taken.
        """
        response = await self._client.request("POST", url, name="upload of a file", content=content, headers={})
        if not response.is_success:
            raise _failure_of_status("upload of a file", response.status_code, response.headers)

    async def respond(self, url: str, body: Mapping[str, Any]) -> None:
        """Answer a slash command by its response URL, which works in channels without the app too.

        Raises:
            InterfaceError: It was not taken, say since the half hour is over.
        """
        once = partial(self._respond_once, url, body)
        await retried(once, RETRY_BACKOFF, RequestNotSent, InterfaceRateLimitError)

    async def _respond_once(self, url: str, body: Mapping[str, Any]) -> None:
        if not self._is_slack(url):
            raise InterfaceMessageError("a response URL that is not Slack's")
        response = await self._client.request("POST", url, name="a response URL", json=body, headers={})
        if not response.is_success:
            raise _failure_of_status("a response URL", response.status_code, response.headers)

    def _is_slack(self, url: str) -> bool:
        parts, own = urlsplit(url), urlsplit(self._config.base_url)
        if (parts.scheme, parts.netloc) == (own.scheme, own.netloc):
            return True
        return parts.scheme == "https" and (parts.hostname or "").endswith(SLACK_HOSTS)


@asynccontextmanager
async def open_api(config: SlackConfig) -> AsyncGenerator[SlackAPI]:
    """The Web API for one app, while the context is open."""
    async with open_client(
        "Slack",
        config.base_url,
        headers={"Authorization": f"Bearer {config.bot_token}"},
        connect_timeout=config.connect_timeout,
        request_timeout=config.request_timeout,
        proxy=config.proxy,
    ) as client:
        yield SlackAPI(client, config)


class Limits:
    """When a method may be called next, for one channel where the limit is each channel's own.

    Times are seconds of any clock that never goes back.
    """

    def __init__(self) -> None:
        self._buckets: OrderedDict[tuple[str, str], TokenBucket] = OrderedDict()
        self._blocked: dict[tuple[str, str], float] = {}

    def wait(self, key: tuple[str, str], now: float) -> float:
        """Seconds until the next call."""
        bucket = self._bucket(key, now)
        return max(self._blocked_for(key, now), 0.0 if bucket is None else bucket.wait(now))

    def take(self, key: tuple[str, str], now: float) -> float:
        """Take the place of the next call; returns the seconds until it comes."""
        blocked, bucket = self._blocked_for(key, now), self._bucket(key, now)
        return blocked if bucket is None else blocked + bucket.take(now + blocked)

    def refused(self, key: tuple[str, str], retry_after: float, now: float) -> None:
        """Take in a 429."""
        self._blocked = {each: until for each, until in self._blocked.items() if until > now}
        self._blocked[key] = max(self._blocked.get(key, 0.0), now + retry_after)

    def _blocked_for(self, key: tuple[str, str], now: float) -> float:
        return max(0.0, self._blocked.get(key, now) - now)

    def _bucket(self, key: tuple[str, str], now: float) -> TokenBucket | None:
        if key[0] not in LIMITS:
            return None
        if len(self._buckets) > MAX_BUCKETS:
            for each in [each for each, bucket in self._buckets.items() if bucket.is_full(now)]:
                del self._buckets[each]
        if key not in self._buckets:
            self._buckets[key] = TokenBucket(*LIMITS[key[0]])
        return self._buckets[key]


def result_of(method: str, status: int, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    """A method's answer, where it is `ok`.

    Raises:
        InterfaceError: The method failed; see the module.
    """
    if status == 429 or status >= 500:
        raise _failure_of_status(method, status, headers)
    try:
        parsed: object = json.loads(body)
    except (ValueError, RecursionError):
        raise InterfaceConnectionError(f"{method}: Slack answered {status}, and not in JSON") from None
    if not isinstance(parsed, dict) or "ok" not in parsed:
        raise InterfaceConnectionError(f"{method}: Slack answered {status}, and not as its Web API does")
    answer = cast("dict[str, Any]", parsed)
    if answer["ok"] is True:
        return answer
    raise failure_of(method, answer, headers)


def failure_of(method: str, answer: Mapping[str, Any], headers: Mapping[str, str]) -> InterfaceError:
    """What an answer that is not `ok` means (https://docs.slack.dev/reference/methods, errors of each method)."""
    code = str(answer.get("error", "no error code"))
    words = f"{method}: Slack answered {code}{_details(answer)}"
    if code in REFUSED_TOKENS:
        return InterfaceAuthenticationError(words)
    if code in ("ratelimited", "rate_limited"):
        return InterfaceRateLimitError(words, retry_after=number(headers.get("retry-after")))
    if code == "service_unavailable":
        return RequestNotSent(words, status=503)
    return InterfaceConnectionError(words, status=500) if code in TRANSIENT else SlackRefusal(words, code)


def _failure_of_status(name: str, status: int, headers: Mapping[str, str]) -> InterfaceError:
    words = f"{name}: Slack answered {status}"
    if status == 429:
        asked = number(headers.get("retry-after"))
        return InterfaceRateLimitError(words, retry_after=DEFAULT_RETRY_AFTER if asked is None else asked)
    if status == 503:
        return RequestNotSent(words, status=status)
    return InterfaceConnectionError(words, status=status) if status >= 500 else SlackRefusal(words, str(status))


def _details(answer: Mapping[str, Any]) -> str:
    """Which scope is missing, and what is wrong with an argument."""
    scope: object = answer.get("needed")
    metadata: object = answer.get("response_metadata")
    said: object = cast("dict[str, Any]", metadata).get("messages") if isinstance(metadata, dict) else None
    messages = [str(each) for each in cast("list[object]", said)] if isinstance(said, list) else []
    parts = [f"the scope {scope} is needed"] if isinstance(scope, str) else []
    details = "; ".join([*parts, *messages])[:500]
    return f" ({details})" if details else ""


def _form_value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
