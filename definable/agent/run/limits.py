"""What one run may spend: checked by the run loop before each request to the model and before each round of tools."""

from __future__ import annotations

from dataclasses import dataclass

from definable.errors import ConfigurationError, UsageLimitExceeded
from definable.model.message import Usage


@dataclass(frozen=True, slots=True)
class UsageLimits:
    """What one run may spend; it fails with `UsageLimitExceeded` rather than begin what would go beyond.

    Tokens are known when a reply has come: the request that passes a limit is the last one, and a reply without tool
    calls is still the run's answer.

    Args:
        requests: Requests to the model, those included that are made once more.
        input_tokens: Tokens of all requests together.
        output_tokens: Tokens of all replies together.
        tool_calls: Tool calls. Those of one reply are all made, or none.

    Raises:
        ConfigurationError: A limit is no whole number above 0.
    """

    requests: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    tool_calls: int | None = None

    def __post_init__(self) -> None:
        for name in self.__slots__:
            limit = getattr(self, name)
            if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
                raise ConfigurationError(f"UsageLimits({name}={limit!r}): a whole number, at least 1, or None")

    def check_request(self, requests: int, usage: Usage) -> None:
        """Whether one more request may be made.

        Args:
            requests: Those that were made.
            usage: What they have cost.

        Raises:
            UsageLimitExceeded: It may not.
        """
        self._check("requests", requests + 1)
        self._check("input_tokens", usage.input_tokens)
        self._check("output_tokens", usage.output_tokens)

    def check_tool_calls(self, made: int, wanted: int, usage: Usage) -> None:
        """Whether the tool calls of a reply may be made.

        Args:
            made: Those that were made before.
            wanted: Those of the reply.
            usage: What the requests have cost, the reply included.

        Raises:
            UsageLimitExceeded: They may not.
        """
        self._check("tool_calls", made + wanted)
        self._check("input_tokens", usage.input_tokens)
        self._check("output_tokens", usage.output_tokens)

    def _check(self, name: str, value: int) -> None:
        limit: int | None = getattr(self, name)
        if limit is not None and value > limit:
            raise UsageLimitExceeded(
                f"the run would come to {value:,} {name.replace('_', ' ')}; its limit is {limit:,}"
            )
