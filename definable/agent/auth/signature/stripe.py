"""Stripe's events."""

from __future__ import annotations

from definable.agent.auth.base import AuthRequest

from .timed_verifier import TimedVerifier
from .verifier import Presented, header_bytes


class StripeSignature(TimedVerifier):
    """Accepts events that Stripe signed: `Stripe-Signature: t=<timestamp>,v1=<signature>`.

    While a secret is rolled Stripe sends one `v1` for each; other schemes are ignored, against downgrades.

    Source: https://docs.stripe.com/webhooks#verify-manually

    Args:
        secret: The endpoint's signing secret with its `whsec_`, or several while it is rotated.
        tolerance: Seconds by which the signed timestamp may differ from our clock, into the past or the future.
        clock: The Unix time in seconds.

    Raises:
        ConfigurationError: There is no secret, one is empty, or the tolerance is not positive.

    Example:
        >>> Webhook("/stripe", auth=StripeSignature(endpoint_secret))  # doctest: +SKIP
    """

    scheme = "stripe"

    def _presented(self, request: AuthRequest) -> Presented | None:
        header = header_bytes(request, "Stripe-Signature") or b""
        fields = [field.strip(b" \t").partition(b"=") for field in header.split(b",")]
        timestamps = [value for name, _, value in fields if name == b"t"]
        if len(timestamps) != 1 or not self._is_fresh(timestamps[0]):
            return None
        signatures = tuple(value for name, _, value in fields if name == b"v1")
        return Presented(signatures, timestamps[0] + b".")

    def _written(self, digest: bytes) -> bytes:
        return digest.hex().encode()
