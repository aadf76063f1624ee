"""What the signature schemes share: secrets, an HMAC-SHA256 over the raw body, one comparison in constant time.

Schemes that sign a timestamp with the body, so that a request cannot be replayed later.

GitHub's webhooks.

Slack's events, commands and interactions.

Stripe's events.

Senders that follow the Standard Webhooks specification.
"""

from __future__ import annotations

import base64
import binascii
import copy
import hashlib
import hmac
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from definable.agent.auth.base import AuthContext, AuthRequest
from definable.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Presented:
    """What a request's headers claim about its body."""

    signatures: tuple[bytes, ...]
    """As they came; one that fits is enough."""
    prefix: bytes = b""
    """What was signed before the body."""


class SignatureVerifier(ABC):
    """Accepts HTTP requests whose body was signed with one of the secrets.

    Args:
        secret: The secret that is shared with the sender, or several while it is rotated.

    Raises:
        ConfigurationError: There is no secret, or one is empty or malformed.
    """

    needs_body: ClassVar[bool] = True
    immediate: ClassVar[bool] = True
    platforms: ClassVar[frozenset[str]] = frozenset({"http"})
    scheme: ClassVar[str]
    """The sender, and the user id of its requests."""

    def __init__(self, secret: str | Iterable[str]) -> None:
        self._keys = [self._key(each) for each in self._secrets(secret)]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(<{len(self._keys)} secrets>)"

    def authenticate(self, request: AuthRequest) -> AuthContext | None:
        """The sender; None for other platforms than HTTP, and unless a signature fits the body as it came."""
        presented = self._presented(request) if request.platform == "http" else None
        if presented is None or not self._fits(presented, request.body):
            return None
        return AuthContext(self.scheme, {"auth_method": "signature", "scheme": self.scheme})

    def mac(self, message: bytes) -> bytes:
        """HMAC-SHA256 of a message with the first secret, as a platform's handshake may ask for it."""
        return hmac.digest(self._keys[0], message, hashlib.sha256)

    def explain(self, request: AuthRequest) -> str:
        """Why a request is refused, for the log."""
        if self._presented(request) is None:
            return "the signature is missing or malformed"
        return "the signature fits no secret: the secret is another one, or the body was changed on its way"

    @abstractmethod
    def _presented(self, request: AuthRequest) -> Presented | None:
        """What the headers claim; None when they are missing, malformed or stale."""

    @abstractmethod
    def _written(self, digest: bytes) -> bytes:
        """A signature as the scheme's header carries it."""

    def _key(self, secret: str) -> bytes:
        return secret.encode()

    def _secrets(self, secret: str | Iterable[str]) -> list[str]:
        given: Any = secret
        is_several = isinstance(given, Iterable) and not isinstance(given, str | Mapping)
        secrets: list[Any] = list(cast("Iterable[Any]", given)) if is_several else [given]
        if not secrets or not all(isinstance(each, str) and each.strip() for each in secrets):
            raise ConfigurationError(f"{type(self).__name__}(secret=...): one string or several, none of them empty")
        return secrets

    def _fits(self, presented: Presented, body: bytes) -> bool:
        fits = False
        for key in self._keys:  # to the end: the time taken must not tell which secret fits
            mac = hmac.new(key, presented.prefix, hashlib.sha256)
            mac.update(body)
            expected = self._written(mac.digest())
            for signature in presented.signatures:
                fits |= hmac.compare_digest(expected, signature)
        return fits


def header_bytes(request: AuthRequest, name: str) -> bytes | None:
    """A header's value as it came over the wire; None when it is absent or empty."""
    value = request.header(name)
    if not value:
        return None
    try:
        return value.encode("latin-1")
    except UnicodeEncodeError:  # not from the wire
        return value.encode("utf-8", "surrogatepass")


DEFAULT_TOLERANCE = 300.0
"""Seconds: what Slack, Stripe and the Standard Webhooks libraries use."""

TIMESTAMP_DIGITS = 20
"""More than any Unix time has."""


class TimedVerifier(SignatureVerifier):
    """Accepts signed requests that were sent just now.

    Args:
        secret: The secret that is shared with the sender, or several while it is rotated.
        tolerance: Seconds by which the signed timestamp may differ from our clock, into the past or the future.
        clock: The Unix time in seconds.

    Raises:
        ConfigurationError: There is no secret, one is empty or malformed, or the tolerance is not positive.
    """

    def __init__(
        self,
        secret: str | Iterable[str],
        tolerance: float = DEFAULT_TOLERANCE,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(secret)
        if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not tolerance > 0:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"{type(self).__name__}(tolerance={tolerance!r}): seconds, more than 0")
        if not callable(clock):
            raise ConfigurationError(f"{type(self).__name__}(clock={clock!r}): a function that gives Unix seconds")
        self.tolerance: float = tolerance
        self._clock = clock

    def explain(self, request: AuthRequest) -> str:
        """Why a request is refused, for the log."""
        relaxed = copy.copy(self)
        relaxed.tolerance = math.inf
        if self._presented(request) is None and relaxed._presented(request) is not None:
            return f"the signed timestamp is off by more than {self.tolerance:g} s: a repeat, or a clock is wrong"
        return super().explain(request)

    def _is_fresh(self, timestamp: bytes) -> bool:
        """Whether a timestamp is one, and lies within the tolerance."""
        if not timestamp.isdigit() or len(timestamp) > TIMESTAMP_DIGITS:
            return False
        return abs(self._clock() - int(timestamp)) <= self.tolerance


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
