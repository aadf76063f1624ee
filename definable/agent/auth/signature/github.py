"""GitHub's webhooks."""

from __future__ import annotations

from definable.agent.auth.base import AuthRequest

from .verifier import Presented, SignatureVerifier, header_bytes


class GitHubSignature(SignatureVerifier):
    """Accepts deliveries that GitHub signed: `X-Hub-Signature-256` over the body.

    The scheme has no timestamp; `Webhook(dedupe="X-GitHub-Delivery")` keeps a delivery from being handled twice.

    Source: https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries

    Args:
        secret: The webhook's secret, or several while it is rotated.

    Raises:
        ConfigurationError: There is no secret, or one is empty.

    Example:
        >>> Webhook("/github", auth=GitHubSignature(secret), dedupe="X-GitHub-Delivery")  # doctest: +SKIP
    """

    scheme = "github"

    def _presented(self, request: AuthRequest) -> Presented | None:
        signature = header_bytes(request, "X-Hub-Signature-256")
        return None if signature is None else Presented((signature,))

    def _written(self, digest: bytes) -> bytes:
        return b"sha256=" + digest.hex().encode()
