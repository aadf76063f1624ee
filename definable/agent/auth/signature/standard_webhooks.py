"""Senders that follow the Standard Webhooks specification."""

from __future__ import annotations

import base64
import binascii

from definable.agent.auth.base import AuthRequest
from definable.errors import ConfigurationError

from .timed_verifier import TimedVerifier
from .verifier import Presented, header_bytes


class StandardWebhookSignature(TimedVerifier):
    """Accepts messages signed by the Standard Webhooks specification, with a symmetric key (`v1`).

    The headers are `webhook-id`, `webhook-timestamp` and `webhook-signature`, or those that begin with `svix-` instead:
    senders through Svix (Clerk, Resend) use the names from before the specification. A repeat of a message has the same
    id: `Webhook(dedupe="webhook-id")` keeps it from being handled twice (`"svix-id"` where the sender has that).

    Sources: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
    https://docs.svix.com/receiving/verifying-payloads/how-manual

    Args:
        secret: The secret in base64, with or without its `whsec_`, or several while it is rotated.
        tolerance: Seconds by which the signed timestamp may differ from our clock, into the past or the future.
        clock: The Unix time in seconds.

    Raises:
        ConfigurationError: There is no secret, one is empty or not base64, or the tolerance is not positive.

    Example:
        >>> Webhook("/billing", auth=StandardWebhookSignature("whsec_..."), dedupe="webhook-id")  # doctest: +SKIP
    """

    scheme = "standard_webhooks"

    def _key(self, secret: str) -> bytes:
        encoded = secret.removeprefix("whsec_").rstrip("=")
        try:
            key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if not key:
            raise ConfigurationError(
                "StandardWebhookSignature(secret=...): base64, with or without 'whsec_'; "
                "asymmetric keys ('whpk_') are not supported"
            )
        return key

    def _presented(self, request: AuthRequest) -> Presented | None:
        prefix = "webhook" if header_bytes(request, "webhook-signature") is not None else "svix"
        message_id = header_bytes(request, f"{prefix}-id")
        timestamp = header_bytes(request, f"{prefix}-timestamp")
        signatures = header_bytes(request, f"{prefix}-signature")
        if message_id is None or timestamp is None or signatures is None:
            return None
        # The dots separate what is signed: an id with one could take its timestamp from the body (see the source).
        if b"." in message_id or not self._is_fresh(timestamp):
            return None
        return Presented(tuple(signatures.split(b" ")), message_id + b"." + timestamp + b".")

    def _written(self, digest: bytes) -> bytes:
        return b"v1," + base64.b64encode(digest)
