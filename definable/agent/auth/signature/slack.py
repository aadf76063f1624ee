"""Slack's events, commands and interactions."""

from __future__ import annotations

from definable.agent.auth.base import AuthRequest

from .timed_verifier import TimedVerifier
from .verifier import Presented, header_bytes


class SlackSignature(TimedVerifier):
    """Accepts requests that Slack signed: `X-Slack-Signature` over `X-Slack-Request-Timestamp` and the body.

    Source: https://docs.slack.dev/authentication/verifying-requests-from-slack

    Args:
        secret: The app's signing secret, or several while it is rotated.
        tolerance: Seconds by which the signed timestamp may differ from our clock, into the past or the future.
        clock: The Unix time in seconds.

    Raises:
        ConfigurationError: There is no secret, one is empty, or the tolerance is not positive.

    Example:
        >>> Webhook("/slack", auth=SlackSignature(signing_secret))  # doctest: +SKIP
    """

    scheme = "slack"

    def _presented(self, request: AuthRequest) -> Presented | None:
        timestamp = header_bytes(request, "X-Slack-Request-Timestamp")
        signature = header_bytes(request, "X-Slack-Signature")
        if timestamp is None or signature is None or not self._is_fresh(timestamp):
            return None
        return Presented((signature,), b"v0:" + timestamp + b":")

    def _written(self, digest: bytes) -> bytes:
        return b"v0=" + digest.hex().encode()
