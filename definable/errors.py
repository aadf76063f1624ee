"""The error tree: user mistakes apart from failures of a run, each with one place to catch it.

```
DefinableError
├── ConfigurationError (ValueError)   a wrong argument or combination, raised on the line that holds it
│   ├── RouteConflict                 two webhooks of one method and path, or one that shadows a built-in route
│   └── MissingExtra (ImportError)    an optional dependency that this feature needs is not installed
├── RunError                          one run of an agent failed
│   ├── MaxTurnsExceeded              the model kept asking for tools
│   ├── UsageLimitExceeded            the run has spent what `usage_limits` gives it
│   ├── RunTimeout (TimeoutError)     the run's deadline passed
│   ├── RunCancelled                  somebody cancelled the run by its id
│   ├── OutputValidationError         the reply does not fit `output_type`, also when asked once more
│   └── ModelError                    the model provider failed
│       ├── ModelAuthenticationError  missing, wrong or revoked key
│       ├── ModelRateLimitError       429; `retry_after` in seconds where the provider says it
│       ├── ModelTimeoutError         no answer in time (also a TimeoutError)
│       ├── ModelConnectionError      the provider cannot be reached, or the connection broke
│       │   └── TooManyOpenFiles      there is no file descriptor for a connection to it
│       ├── ModelRequestError         the provider refuses the request (400, 404, 422 ...)
│       │   ├── ContextWindowExceeded the conversation is longer than the model takes
│       │   └── ContentFiltered       the provider withholds the reply, or refuses the request, for what it says
│       ├── ModelResponseError        an answer that breaks off or cannot be understood, or a provider's 5xx
│       ├── OutputTruncated           the reply reached the provider's limit of output tokens
│       └── EmptyReply                the reply holds neither text nor a tool call
├── ScopeLeftOpen                     user code left a cancel scope, task group or time-out open behind it
├── SessionNotFound (LookupError)     no such session, or it belongs to somebody else
├── StorageError                      a file or service that keeps data for us failed: locked, full, damaged, away
│   └── SessionConflict               a session was saved by another since it was loaded
├── AuthUnavailable                   who a caller is cannot be said for now: an identity provider is away
├── EventBusError
│   ├── EventBufferFull               the bounded buffer has no room; nothing was accepted
│   └── EventBusClosed                the agent no longer serves; nothing was accepted
├── ServeError                        serving could not start
└── InterfaceError                    in `definable.agent.interface`
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for the types alone: they stand to the right of errors
    from definable.agent.run.output import ToolExecution
    from definable.model.message import Message, Usage

__all__ = [
    "DefinableError",
    "ConfigurationError",
    "RouteConflict",
    "MissingExtra",
    "RunError",
    "MaxTurnsExceeded",
    "UsageLimitExceeded",
    "RunTimeout",
    "RunCancelled",
    "OutputValidationError",
    "ModelError",
    "ModelAuthenticationError",
    "ModelRateLimitError",
    "ModelTimeoutError",
    "ModelConnectionError",
    "TooManyOpenFiles",
    "ModelRequestError",
    "ContextWindowExceeded",
    "ContentFiltered",
    "ModelResponseError",
    "OutputTruncated",
    "EmptyReply",
    "ScopeLeftOpen",
    "SessionNotFound",
    "StorageError",
    "SessionConflict",
    "AuthUnavailable",
    "EventBusError",
    "EventBufferFull",
    "EventBusClosed",
    "ServeError",
]


class DefinableError(Exception):
    """Every error that definable raises on purpose."""


class ConfigurationError(DefinableError, ValueError):
    """A wrong argument; the message names the value and the way out."""


class RouteConflict(ConfigurationError):
    """Two endpoints claim the same method and path."""


class MissingExtra(ConfigurationError, ImportError):
    """An optional dependency is not installed; the message names the extra to install."""


class RunError(DefinableError):
    """One run of an agent failed; what it had spent and done by then is here."""

    usage: Usage | None = None
    """Tokens, over all turns; None where no run had begun."""
    messages: tuple[Message, ...] = ()
    """What the run had added to the conversation, its input first; nothing of it is kept with the session."""
    tool_calls: tuple[ToolExecution, ...] = ()
    """The tools that were called: what they did is done."""


class MaxTurnsExceeded(RunError):
    """The model still asked for tools after `max_turns` turns."""


class UsageLimitExceeded(RunError):
    """The run has spent what `usage_limits` gives it; the message names the limit."""


class RunTimeout(RunError, TimeoutError):
    """The run did not end within its deadline."""


class RunCancelled(RunError):
    """The run was cancelled by its id."""


class OutputValidationError(RunError):
    """The model's reply does not fit `output_type`, also after it was asked once more."""


class ModelError(RunError):
    """The model provider failed; the message carries the provider's own.

    Args:
        message: What happened, with the provider's words.
        status: The provider's HTTP status, where there was one.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class ModelAuthenticationError(ModelError):
    """The API key is missing, wrong, revoked or not allowed to use the model."""


class ModelRateLimitError(ModelError):
    """The provider limits the rate or the quota is used up.

    Args:
        message: What happened, with the provider's words.
        status: The provider's HTTP status.
        retry_after: Seconds to wait before the next try, where the provider says it.
    """

    def __init__(self, message: str, *, status: int | None = 429, retry_after: float | None = None) -> None:
        super().__init__(message, status=status)
        self.retry_after = retry_after


class ModelTimeoutError(ModelError, TimeoutError):
    """The provider did not answer in time."""


class ModelConnectionError(ModelError):
    """The provider cannot be reached, or the connection broke."""


class TooManyOpenFiles(ModelConnectionError):
    """This process, or its system, has no file descriptor left for a connection: the provider was not asked."""


class ModelRequestError(ModelError):
    """The provider refuses the request as it stands; sending it again would not help."""


class ContextWindowExceeded(ModelRequestError):
    """The conversation is longer than the model takes, also without the oldest half of its history."""


class ContentFiltered(ModelRequestError):
    """The provider withholds the reply, or refuses the request, for what it says."""


class ModelResponseError(ModelError):
    """The provider's answer breaks off or cannot be understood, or the provider failed within (5xx)."""


class OutputTruncated(ModelError):
    """The reply reached the provider's limit of output tokens: none of its tool calls was made."""


class EmptyReply(ModelError):
    """The reply holds neither text nor a tool call, also when asked for once more."""


class ScopeLeftOpen(DefinableError):
    """User code left a cancel scope, task group or time-out open behind it; the message names it and the way out."""


class SessionNotFound(DefinableError, LookupError):
    """No such session, or it belongs to another user: the two are told apart to nobody."""


class StorageError(DefinableError):
    """What keeps sessions, identities or events failed; the message names the place and the way out."""


class SessionConflict(StorageError):
    """A session store did not save a session, since another version of it is stored than the one that was loaded."""


class AuthUnavailable(DefinableError):
    """An auth provider cannot say for now who a caller is: it is answered 503, and not that it is unknown."""


class EventBusError(DefinableError):
    """The event bus did not accept the event."""


class EventBufferFull(EventBusError):
    """The bounded event buffer has no room. Nothing was accepted: try later, or `await agent.aemit(...)`."""


class EventBusClosed(EventBusError):
    """The agent has stopped serving. Nothing was accepted."""


class ServeError(DefinableError):
    """Serving could not start; nothing was left running."""
