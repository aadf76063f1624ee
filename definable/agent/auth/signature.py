"""Webhooks that their sender signs: an HMAC-SHA256 over the raw body, compared in constant time.

One class for each scheme, which says what its headers claim and how a signature is written:

| Scheme | Signature in | Signed before the body | Written |
|---|---|---|---|
| GitHub | `X-Hub-Signature-256` | | `sha256=` and hex |
| Slack | `X-Slack-Signature` | `v0:`, `X-Slack-Request-Timestamp`, `:` | `v0=` and hex |
| Stripe | `Stripe-Signature`: `t=...,v1=...` | `t`, `.` | hex |
| Standard Webhooks | `webhook-signature` | `webhook-id`, `.`, `webhook-timestamp`, `.` | `v1,` and base64 |
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from definable.errors import ConfigurationError

from .base import AuthContext, AuthRequest, wire_bytes

DEFAULT_TOLERANCE = 300.0
"""Seconds: what Slack, Stripe and the Standard Webhooks libraries use."""

TIMESTAMP_DIGITS = 20
"""More than any Unix time has."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a request's headers claim about its body."""

    signatures: tuple[bytes, ...]
    """As they came; one that fits is enough."""
    timestamp: bytes | None = None
    """When it was signed, in Unix seconds; None in a scheme that has no timestamp."""
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
    tolerance: float = math.inf
    _clock: Callable[[], float] = staticmethod(time.time)

    def __init__(self, secret: str | Iterable[str]) -> None:
        given: Any = secret
        is_several = isinstance(given, Iterable) and not isinstance(given, str | Mapping)
        secrets: list[Any] = list(cast("Iterable[Any]", given)) if is_several else [given]
        if not secrets or not all(isinstance(each, str) and each.strip() for each in secrets):
            raise ConfigurationError(f"{type(self).__name__}(secret=...): one string or several, none of them empty")
        self._keys = [self._key(each) for each in secrets]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(<{len(self._keys)} secrets>)"

    def authenticate(self, request: AuthRequest) -> AuthContext | None:
        """The sender; None for other platforms than HTTP, and unless a signature fits the body as it came."""
        if request.platform != "http" or self._problem(request) is not None:
            return None
        return AuthContext(self.scheme, {"auth_method": "signature", "scheme": self.scheme})

    def explain(self, request: AuthRequest) -> str:
        """Why a request is refused, for the log."""
        return self._problem(request) or "it is not refused"

    def mac(self, message: bytes) -> bytes:
        """HMAC-SHA256 of a message with the first secret, as a platform's handshake may ask for it."""
        return hmac.digest(self._keys[0], message, hashlib.sha256)

    def _problem(self, request: AuthRequest) -> str | None:
        claim = self._claim(request)
        if claim is None:
            return "the signature is missing or malformed"
        if claim.timestamp is not None:
            if not claim.timestamp.isdigit() or len(claim.timestamp) > TIMESTAMP_DIGITS:
                return "the signed timestamp is malformed"
            if not abs(self._clock() - int(claim.timestamp)) <= self.tolerance:
                return f"the signed timestamp is off by more than {self.tolerance:g} s: a repeat, or a clock is wrong"
        if not self._fits(claim, request.body):
            return "the signature fits no secret: the secret is another one, or the body was changed on its way"
        return None

    def _fits(self, claim: Claim, body: bytes) -> bool:
        fits = False
        for key in self._keys:  # to the end: the time taken must not tell which secret fits
            mac = hmac.new(key, claim.prefix, hashlib.sha256)
            mac.update(body)
            expected = self._written(mac.digest())
            for signature in claim.signatures:
                fits |= hmac.compare_digest(expected, signature)
        return fits

    def _key(self, secret: str) -> bytes:
        return secret.encode()

    @abstractmethod
    def _claim(self, request: AuthRequest) -> Claim | None:
        """What the headers claim; None when they are missing or malformed."""

    @abstractmethod
    def _written(self, digest: bytes) -> bytes:
        """A signature as the scheme's header carries it."""


class TimedVerifier(SignatureVerifier):
    """Accepts signed requests that were sent just now, so that none can be replayed later.

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


class GitHubSignature(SignatureVerifier):
    """Accepts deliveries that GitHub signed, with the webhook's secret (or several while it is rotated).

    The scheme has no timestamp; `Webhook(dedupe="X-GitHub-Delivery")` keeps a delivery from being handled twice.

    Source: https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries

    Example:
        >>> Webhook("/github", auth=GitHubSignature(secret), dedupe="X-GitHub-Delivery")  # doctest: +SKIP
    """

    scheme = "github"

    def _claim(self, request: AuthRequest) -> Claim | None:
        signature = header_bytes(request, "X-Hub-Signature-256")
        return None if signature is None else Claim((signature,))

    def _written(self, digest: bytes) -> bytes:
        return b"sha256=" + digest.hex().encode()


class SlackSignature(TimedVerifier):
    """Accepts requests that Slack signed, with the app's signing secret; arguments as of `TimedVerifier`.

    Source: https://docs.slack.dev/authentication/verifying-requests-from-slack

    Example:
        >>> Webhook("/slack", auth=SlackSignature(signing_secret))  # doctest: +SKIP
    """

    scheme = "slack"

    def _claim(self, request: AuthRequest) -> Claim | None:
        timestamp = header_bytes(request, "X-Slack-Request-Timestamp")
        signature = header_bytes(request, "X-Slack-Signature")
        if timestamp is None or signature is None:
            return None
        return Claim((signature,), timestamp, b"v0:" + timestamp + b":")

    def _written(self, digest: bytes) -> bytes:
        return b"v0=" + digest.hex().encode()


class StripeSignature(TimedVerifier):
    """Accepts events that Stripe signed, with the endpoint's secret (`whsec_...`); arguments as of `TimedVerifier`.

    While a secret is rolled Stripe sends one `v1` for each; other schemes are ignored, against downgrades.

    Source: https://docs.stripe.com/webhooks#verify-manually

    Example:
        >>> Webhook("/stripe", auth=StripeSignature(endpoint_secret))  # doctest: +SKIP
    """

    scheme = "stripe"

    def _claim(self, request: AuthRequest) -> Claim | None:
        header = header_bytes(request, "Stripe-Signature") or b""
        fields = [field.strip(b" \t").partition(b"=") for field in header.split(b",")]
        timestamps = [value for name, _, value in fields if name == b"t"]
        if len(timestamps) != 1:
            return None
        return Claim(tuple(value for name, _, value in fields if name == b"v1"), timestamps[0], timestamps[0] + b".")

    def _written(self, digest: bytes) -> bytes:
        return digest.hex().encode()


class StandardWebhookSignature(TimedVerifier):
    """Accepts messages signed by the Standard Webhooks specification, with a symmetric key (`v1`).

    The headers begin with `webhook-`, or with `svix-` instead: senders through Svix (Clerk, Resend) use the names from
    before the specification. A repeat of a message has the same id: `Webhook(dedupe="webhook-id")` keeps it from being
    handled twice (`"svix-id"` where the sender has that).

    Sources: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
    https://docs.svix.com/receiving/verifying-payloads/how-manual

    Args:
        secret: The secret in base64, with or without its `whsec_`, or several while it is rotated.
        tolerance: As of `TimedVerifier`.
        clock: As of `TimedVerifier`.

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

    def _claim(self, request: AuthRequest) -> Claim | None:
        sender = "webhook" if header_bytes(request, "webhook-signature") is not None else "svix"
        message_id, timestamp, signatures = (
            header_bytes(request, f"{sender}-{name}") for name in ("id", "timestamp", "signature")
        )
        # The dots separate what is signed: an id with one could take its timestamp from the body (see the source).
        if message_id is None or timestamp is None or signatures is None or b"." in message_id:
            return None
        return Claim(tuple(signatures.split(b" ")), timestamp, message_id + b"." + timestamp + b".")

    def _written(self, digest: bytes) -> bytes:
        return b"v1," + base64.b64encode(digest)


def header_bytes(request: AuthRequest, name: str) -> bytes | None:
    """A header's value as it came over the wire; None when it is absent or empty."""
    value = request.header(name)
    return wire_bytes(value) if value else None
