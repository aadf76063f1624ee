"""Signature verifiers for `Webhook(auth=...)`: who sent this body, and has nobody touched it.

`verifier.py` has what the schemes share, `timed_verifier.py` what those with a timestamp do; each scheme is a file.
The four differ in a header and a prefix around the same HMAC-SHA256, so they are stdlib `hmac` over bytes rather than
one library for each sender.
"""

from .github import GitHubSignature
from .slack import SlackSignature
from .standard_webhooks import StandardWebhookSignature
from .stripe import StripeSignature

__all__ = ["GitHubSignature", "StandardWebhookSignature", "SlackSignature", "StripeSignature"]
