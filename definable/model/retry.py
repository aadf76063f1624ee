"""When a failed call to a provider is tried again, and after how long; pure, `openai_client.py` calls it.

The rules are those of the official SDK (exponential backoff with jitter, `Retry-After` honoured), but no wait is longer
than `MAX_RETRY_WAIT` or than what is left of the caller's deadline: then the error is raised at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from math import isfinite

from ..errors import ModelError

FIRST_RETRY_WAIT = 0.5
"""Seconds before the second try; doubled for each further one."""

LAST_RETRY_WAIT = 8.0
"""Seconds: the backoff does not grow beyond."""

MAX_RETRY_WAIT = 30.0
"""Seconds: a provider that asks for a longer pause gets none, the call fails and carries `retry_after`."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One try that failed."""

    error: ModelError
    transient: bool
    """Whether the same request may succeed later."""
    retry_after: float | None = None
    """Seconds that the provider asks to wait."""


def retry_wait(failure: Failure, tries: int, max_retries: int, *, time_left: float, jitter: float) -> float | None:
    """Return the seconds to wait before the next try, or None to give up.

    Args:
        failure: How the last try failed.
        tries: How many there were so far, the last included.
        max_retries: How many may follow the first.
        time_left: Seconds until the caller's deadline; infinity without one.
        jitter: A random number from 0 to 1: takes up to a quarter off the backoff, so that clients spread out.
    """
    if not failure.transient or tries > max_retries:
        return None
    wait = failure.retry_after
    if wait is None:
        wait = min(FIRST_RETRY_WAIT * 2.0 ** min(tries - 1, 30), LAST_RETRY_WAIT) * (1 - 0.25 * jitter)
    return wait if wait <= MAX_RETRY_WAIT and wait < time_left else None


def parse_retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds that a provider asks to wait, None where it says nothing that can be read.

    `retry-after-ms` (milliseconds, OpenAI's and Azure's) goes before `Retry-After` (seconds or an HTTP date, RFC 9110).

    Args:
        headers: The answer's, looked up in lower case.
        now: Unix seconds, to measure a date against.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    seconds = _number(value)
    return _seconds_until(value, now) if seconds is None else seconds


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if isfinite(number) and number >= 0 else None


def _seconds_until(date: str | None, now: float) -> float | None:
    try:
        moment = parsedate_to_datetime(date or "")
    except ValueError:
        return None
    return max(0.0, moment.timestamp() - now)
