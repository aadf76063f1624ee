"""Failures of a provider: what the SDK, its HTTP client and the provider report, in the words of our error tree, and
whether and when a failed call is tried again.

Pure; `client.py` calls it. The rules of retries are those of the official SDK (exponential backoff with jitter,
`Retry-After` honoured), but no wait is longer than 30 s or than what is left of the caller's deadline: then the error
is raised at once. Loaded with the SDK, when an `OpenAIChat` is first used.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import NoReturn, cast

import httpx2
import openai

from definable.concurrency.backoff import Backoff
from definable.errors import (
    ContentFiltered,
    ContextWindowExceeded,
    ModelAuthenticationError,
    ModelConnectionError,
    ModelError,
    ModelRateLimitError,
    ModelRequestError,
    ModelResponseError,
    ModelTimeoutError,
    TooManyOpenFiles,
)

from .completion import ProviderError
from .error_body import (
    FAILED_CODES,
    FILTERED,
    QUOTA_CODES,
    TOO_LONG,
    codes_of,
    number,
    only_error,
    provider_message,
    retry_delay,
    status_of,
)
from .events import EventTooLong
from .response import NoReply

RETRY_BACKOFF = Backoff(initial=0.5, maximum=8.0, jitter=0.25, max_retry_after=30.0)
"""A provider that asks for a longer pause gets none: the call fails and carries `retry_after`."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One try that failed."""

    error: ModelError
    transient: bool
    """Whether the same request may succeed later."""
    retry_after: float | None = None
    """Seconds that the provider asks to wait."""


def retry_wait(failure: Failure, tries: int, max_retries: int, *, time_left: float) -> float | None:
    """Return the seconds to wait before the next try, or None to give up.

    Args:
        failure: How the last try failed.
        tries: How many there were so far, the last included.
        max_retries: How many may follow the first.
        time_left: Seconds until the caller's deadline; infinity without one.
    """
    if not failure.transient or tries > max_retries:
        return None
    wait = RETRY_BACKOFF.retry_delay(tries, failure.retry_after)
    return wait if wait is not None and wait < time_left else None


def parse_retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds that a provider asks to wait, None where it says nothing that can be read.

    `retry-after-ms` (milliseconds, OpenAI's and Azure's) goes before `Retry-After` (seconds or an HTTP date, RFC 9110).

    Args:
        headers: The answer's, looked up in lower case.
        now: Unix seconds, to measure a date against.
    """
    milliseconds = number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    seconds = number(value)
    return _seconds_until(value, now) if seconds is None else seconds


def _seconds_until(date: str | None, now: float) -> float | None:
    try:
        moment = parsedate_to_datetime(date or "")
    except ValueError:
        return None
    return max(0.0, moment.timestamp() - now)


EXPLAINED = (
    openai.OpenAIError,
    httpx2.HTTPError,
    httpx2.InvalidURL,
    ProviderError,
    NoReply,
    EventTooLong,
    ModelError,
)
"""What a try may raise that `explain` understands."""

MIN_SECRET = 8
"""Characters: a shorter key is no secret but a word ("x", "none", "ollama") that stands in messages as well."""


def explain(error: BaseException, *, where: str, keys: Iterable[str], timeout: float) -> Failure:
    """Return what a failed try means.

    Args:
        error: One of `EXPLAINED`.
        where: The provider's base URL, for the message.
        keys: The API keys that were sent: some servers repeat them, our messages never do.
        timeout: Seconds that one answer, or the next piece of one, may take.
    """
    match error:
        case ModelError():
            return Failure(error, transient=False)
        case openai.APIStatusError():
            return _status_failure(error.status_code, error.body, error.response.headers, where, keys)
        case openai.APITimeoutError() | httpx2.TimeoutException():
            return _timeout_failure(error, where, timeout)
        case openai.APIConnectionError() | httpx2.TransportError():
            return _connection_failure(error, where)
        case ProviderError():
            return _status_failure(status_of(error.error), error.error, {}, where, keys)
        case NoReply():  # Google's and OpenRouter's, now and then: the next try has one
            return Failure(ModelResponseError(str(error)), transient=True)
        case _:
            return Failure(ModelResponseError(f"the answer of {where} cannot be read: {_said(error)}"), transient=False)


def raise_explained(failure: Failure, error: BaseException) -> NoReturn:
    """Raise a failure's error, with what caused it."""
    if failure.error is error:
        raise error
    raise failure.error from error


def _status_failure(
    status: int | None, body: object, headers: Mapping[str, str], where: str, keys: Iterable[str]
) -> Failure:
    body = only_error(body)
    said = provider_message(body)
    text = f"{where} answered {status or 'with an error'}: {said}"
    for key in keys:
        text = text.replace(key, "***") if len(key) >= MIN_SECRET else text
    codes = codes_of(body)
    retry_after = parse_retry_after(headers, time.time())
    if retry_after is None:
        retry_after = retry_delay(body)
    transient = _is_transient(status, headers, codes) and codes.isdisjoint(QUOTA_CODES)
    words = " ".join([said, *codes]).lower()
    match status:
        case 401 | 403:
            error: ModelError = ModelAuthenticationError(f"{text} (check api_key= or its variable)", status=status)
        case 429:
            error = ModelRateLimitError(text, status=status, retry_after=retry_after)
        case 408 | 504:
            error = ModelTimeoutError(text, status=status)
        case _ if status == 413 or TOO_LONG.search(words):
            error, transient = ContextWindowExceeded(text, status=status), False
        case _ if FILTERED.search(words):
            error, transient = ContentFiltered(text, status=status), False
        case int() if status < 500:
            error = ModelRequestError(text, status=status)
        case _:
            error = ModelResponseError(text, status=status)
    return Failure(error, transient, retry_after)


def _is_transient(status: int | None, headers: Mapping[str, str], codes: frozenset[str]) -> bool:
    told = headers.get("x-should-retry")  # OpenAI's own word on it
    if told in ("true", "false"):
        return told == "true"
    if status is None:
        return not codes.isdisjoint(FAILED_CODES)
    return status in (408, 409, 429) or status >= 500


def _timeout_failure(error: Exception, where: str, timeout: float) -> Failure:
    cause = error if isinstance(error, httpx2.TimeoutException) else error.__cause__
    if isinstance(cause, httpx2.ConnectTimeout):
        return Failure(ModelConnectionError(f"cannot reach {where}: no connection in time"), transient=True)
    if isinstance(cause, httpx2.PoolTimeout):
        text = f"all connections to {where} were busy for {timeout:g} s"
        return Failure(ModelTimeoutError(text), transient=False)
    # Not tried again: the provider is likely still at work on the request, and charges for it.
    return Failure(ModelTimeoutError(f"{where} sent nothing new for {timeout:g} s"), transient=False)


def _connection_failure(error: Exception, where: str) -> Failure:
    cause = error.__cause__ if isinstance(error, openai.APIConnectionError) else error
    if lacks_descriptors(error):
        text = f"cannot reach {where}: this process has too many open files (raise LimitNOFILE= of systemd, ulimit -n)"
        return Failure(TooManyOpenFiles(text), transient=True)
    if isinstance(cause, (httpx2.UnsupportedProtocol, httpx2.TooManyRedirects, httpx2.DecodingError)):
        return Failure(ModelConnectionError(f"cannot talk to {where}: {_said(cause)}"), transient=False)
    if isinstance(cause, (httpx2.ConnectError, httpx2.ProxyError)):
        return Failure(ModelConnectionError(f"cannot reach {where}: {_said(cause)}"), transient=True)
    return Failure(ModelConnectionError(f"the connection to {where} broke: {_said(cause)}"), transient=True)


def lacks_descriptors(error: BaseException | None) -> bool:
    """Whether an exception, or one that led to it, is the system's lack of file descriptors."""
    seen: list[BaseException] = []
    waiting = [error]
    while waiting:
        cause = waiting.pop()
        if cause is None or cause in seen:
            continue
        if isinstance(cause, OSError) and cause.errno in (errno.EMFILE, errno.ENFILE):
            return True
        seen.append(cause)
        waiting += (cause.__cause__, cause.__context__)
        if isinstance(cause, BaseExceptionGroup):
            waiting += cast("BaseExceptionGroup[BaseException]", cause).exceptions
    return False


def _said(error: BaseException | None) -> str:
    return str(error) or type(error).__name__
