"""What can go wrong between an interface and its platform.

```
InterfaceError (DefinableError)
├── InterfaceAuthenticationError   401: a wrong or revoked token; fatal, never tried again
├── InterfaceRateLimitError        429; `retry_after` in seconds
├── InterfaceMessageError          400: the platform refuses this message
└── InterfaceConnectionError       the platform cannot be reached, or the connection broke
```
"""

from __future__ import annotations

from definable.errors import DefinableError


class InterfaceError(DefinableError):
    """An interface failed.

    Args:
        message: What happened.
        status: The HTTP status that says it best; None where none does.
        platform: The interface's platform, where it is known: `"telegram"`.
        status_code: The same as `status`.
    """

    status: int | None = None

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
    """The platform, or the interface's own limit, wants a slower pace.

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
