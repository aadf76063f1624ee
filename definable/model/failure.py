"""A try at a provider's answer that failed: what it means in our error tree, and whether and when it is made again.

Pure. `openai/errors.py` and `anthropic/client.py` say what their SDK and provider report, by what all have in common
here. The rules of retries are those of the official SDKs (exponential backoff with jitter, `Retry-After` honoured), but
no wait is longer than 30 s or than what is left of the caller's deadline: then the error is raised at once.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from math import isfinite
from typing import NoReturn, cast

import httpx2

from definable.concurrency.backoff import Backoff
from definable.errors import (
    ModelAuthenticationError,
    ModelConnectionError,
    ModelError,
    ModelRateLimitError,
    ModelRequestError,
    ModelResponseError,
    ModelTimeoutError,
    TooManyOpenFiles,
)

RETRY_BACKOFF = Backoff(initial=0.5, maximum=8.0, jitter=0.25, max_retry_after=30.0)
"""A provider that asks for a longer pause gets none: the call fails and carries `retry_after`."""

MIN_SECRET = 8
"""Characters: a shorter key is no secret but a word ("x", "none", "ollama") that stands in messages as well."""


class NoReply(Exception):
    """An answer that ends before anything of a reply came; its message says what did."""


class ProviderError(Exception):
    """An error object inside an answer whose status was 200."""

    def __init__(self, error: object) -> None:
        super().__init__(error)
        self.error = error


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


def raise_explained(failure: Failure, error: BaseException) -> NoReturn:
    """Raise a failure's error, with what caused it."""
    if failure.error is error:
        raise error
    raise failure.error from error


def explain_status(
    status: int | None,
    said: str,
    headers: Mapping[str, str],
    *,
    where: str,
    keys: Iterable[str],
    kind: type[ModelError] | None = None,
    transient: bool = True,
    retry_after: float | None = None,
) -> Failure:
    """Return what a provider's error means.

    Args:
        status: Of HTTP, or what stands for it in an answer whose status was 200; None: nothing does.
        said: The provider's words.
        headers: The answer's, looked up in lower case.
        where: The provider's base URL, for the message.
        keys: The API keys that were sent: some servers repeat them, our messages never do.
        kind: What the provider's words say of a request that cannot succeed as it is.
        transient: Whether an error without a status may pass.
        retry_after: Seconds that the provider asks to wait, where no header says it.
    """
    text = f"{where} answered {status or 'with an error'}: {said}"
    for key in keys:
        text = text.replace(key, "***") if len(key) >= MIN_SECRET else text
    asked = parse_retry_after(headers, time.time())
    retry_after = retry_after if asked is None else asked
    if status is not None:
        transient = status in (408, 409, 429) or status >= 500
    if (told := headers.get("x-should-retry")) in ("true", "false"):  # the SDKs heed it
        transient = told == "true"
    match status:
        case 401 | 403:
            error: ModelError = ModelAuthenticationError(f"{text} (check api_key= or its variable)", status=status)
        case 429:
            error = ModelRateLimitError(text, status=status, retry_after=retry_after)
        case 408 | 504:
            error = ModelTimeoutError(text, status=status)
        case _ if kind is not None:
            error, transient = kind(text, status=status), False
        case int() if status < 500:
            error = ModelRequestError(text, status=status)
        case _:
            error = ModelResponseError(text, status=status)
    return Failure(error, transient, retry_after)


def explain_connection(error: BaseException, *, where: str, timeout: float) -> Failure:
    """Return what a failure of the connection means.

    Args:
        error: The HTTP client's, or the SDK's that one led to.
        where: The provider's base URL, for the message.
        timeout: Seconds that one answer, or the next piece of one, may take.
    """
    cause = error if isinstance(error, httpx2.HTTPError) else error.__cause__
    if lacks_descriptors(error):
        text = f"cannot reach {where}: this process has too many open files (raise LimitNOFILE= of systemd, ulimit -n)"
        return Failure(TooManyOpenFiles(text), transient=True)
    match cause:
        case httpx2.ConnectTimeout():
            return Failure(ModelConnectionError(f"cannot reach {where}: no connection in time"), transient=True)
        case httpx2.PoolTimeout():
            text = f"all connections to {where} were busy for {timeout:g} s"
            return Failure(ModelTimeoutError(text), transient=False)
        case httpx2.TimeoutException():
            # Not tried again: the provider is likely still at work on the request, and charges for it.
            return Failure(ModelTimeoutError(f"{where} sent nothing new for {timeout:g} s"), transient=False)
        case httpx2.UnsupportedProtocol() | httpx2.TooManyRedirects() | httpx2.DecodingError():
            return Failure(ModelConnectionError(f"cannot talk to {where}: {_said(cause)}"), transient=False)
        case httpx2.ConnectError() | httpx2.ProxyError():
            return Failure(ModelConnectionError(f"cannot reach {where}: {_said(cause)}"), transient=True)
        case _:
            return Failure(ModelConnectionError(f"the connection to {where} broke: {_said(cause)}"), transient=True)


def explain_answer(error: BaseException, *, where: str) -> Failure:
    """Return what an answer means that is no reply.

    Args:
        error: What reading it raised.
        where: The provider's base URL, for the message.
    """
    match error:
        case ModelError():
            return Failure(error, transient=False)
        case NoReply():  # Google's, OpenRouter's and Anthropic's, now and then: the next try has one
            return Failure(ModelResponseError(str(error)), transient=True)
        case _:
            return Failure(ModelResponseError(f"the answer of {where} cannot be read: {_said(error)}"), transient=False)


def parse_retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds that a provider asks to wait, None where it says nothing that can be read.

    `retry-after-ms` (milliseconds, OpenAI's and Azure's) goes before `Retry-After` (seconds or an HTTP date, RFC 9110).

    Args:
        headers: The answer's, looked up in lower case.
        now: Unix seconds, to measure a date against.
    """
    milliseconds = seconds_in(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    seconds = seconds_in(value)
    return _seconds_until(value, now) if seconds is None else seconds


def seconds_in(text: str | None) -> float | None:
    """The number that a text is, where it is finite and not negative."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if isfinite(value) and value >= 0 else None


def excerpt(body: str | bytes, limit: int = 200) -> str:
    """The beginning of an answer, for an error's message."""
    text = body if isinstance(body, str) else body.decode("utf-8", "replace")
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[:limit]}..."


def _seconds_until(date: str | None, now: float) -> float | None:
    try:
        moment = parsedate_to_datetime(date or "")
    except ValueError:
        return None
    return max(0.0, moment.timestamp() - now)


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
