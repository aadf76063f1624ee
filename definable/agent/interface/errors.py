"""What can go wrong between an interface and its platform.

```
InterfaceError (DefinableError)
├── InterfaceAuthenticationError   401: a wrong or revoked token; fatal, never tried again
├── InterfaceRateLimitError        429; `retry_after` in seconds
├── InterfaceMessageError          400: the platform refuses this message
└── InterfaceConnectionError       the platform cannot be reached, or the connection broke
    └── RequestNotSent             ... before anything was sent
```
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from definable.concurrency.backoff import Backoff
from definable.concurrency.logs import logger_named
from definable.errors import DefinableError

logger: logging.Logger = logger_named(__name__)

Result = TypeVar("Result")


class InterfaceError(DefinableError):
    """An interface failed.

    Args:
        message: What happened.
        status: The HTTP status that says it best; None where none does.
        platform: The interface's platform, where it is known: `"telegram"`.
        status_code: The same as `status`.
    """

    status: int | None = None
    retry_after: float | None = None
    """Seconds after which the platform may be asked again, where it says so."""

    def __init__(
        self, message: str, *, status: int | None = None, platform: str = "", status_code: int | None = None
    ) -> None:
        super().__init__(message)
        self.platform = platform
        if status is not None or status_code is not None:
            self.status = status_code if status is None else status

    @property
    def status_code(self) -> int | None:
        """The same as `status`."""
        return self.status


class InterfaceAuthenticationError(InterfaceError):
    """The platform refuses the token. Fatal: the supervisor does not try again."""

    status: int | None = 401


class InterfaceRateLimitError(InterfaceError):
    """The rate limit of the platform, or of the interface itself, is exceeded.

    Args:
        message: What happened.
        retry_after: Seconds to wait, where it is known.
        platform: The interface's platform, where it is known.
        status: The HTTP status; 429 unless set.
        status_code: The same as `status`.
    """

    status: int | None = 429

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        status: int | None = None,
        platform: str = "",
        status_code: int | None = None,
    ) -> None:
        super().__init__(message, status=status, platform=platform, status_code=status_code)
        self.retry_after = retry_after


class InterfaceMessageError(InterfaceError):
    """The platform refuses this message; sending it again as it is would not help."""

    status: int | None = 400


class InterfaceConnectionError(InterfaceError):
    """The platform cannot be reached, or the connection broke."""


class RequestNotSent(InterfaceConnectionError):
    """The request never left for the platform: sending it again cannot send it twice."""


async def retried(request: Callable[[], Awaitable[Result]], backoff: Backoff, *errors: type[InterfaceError]) -> Result:
    """Make a request, again after each of these errors for as long as `backoff` allows.

    Args:
        request: One try.
        backoff: Delays, the most tries, and the longest `retry_after` that is waited for.
        errors: Those after which the request may be made again.

    Raises:
        InterfaceError: What the last try raised.
    """
    failures = 0
    while True:
        try:
            return await request()
        except errors as error:
            failures += 1
            delay = backoff.retry_delay(failures, error.retry_after)
            if delay is None:
                raise
            logger.info("try %d failed, again in %.1f s: %s", failures, delay, error)
        await anyio.sleep(delay)
