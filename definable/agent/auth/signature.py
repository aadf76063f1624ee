"""Webhooks that their sender signs: an HMAC over the raw body, compared in constant time.

One class for each scheme, which says what its headers claim and how a signature is written:

| Scheme | Signature in | Signed before the body | Written |
|---|---|---|---|
| GitHub, Meta | `X-Hub-Signature-256` | | `sha256=` and hex |
| Shopify | `X-Shopify-Hmac-Sha256` | | base64 |
| Slack | `X-Slack-Signature` | `v0:`, `X-Slack-Request-Timestamp`, `:` | `v0=` and hex |
| Zoom | `x-zm-signature` | `v0:`, `x-zm-request-timestamp`, `:` | `v0=` and hex |
| Stripe | `Stripe-Signature`: `t=...,v1=...` | `t`, `.` | hex |
| Standard Webhooks | `webhook-signature` | `webhook-id`, `.`, `webhook-timestamp`, `.` | `v1,` and base64 |
| Twilio | `X-Twilio-Signature` | the URL; a form sorted in place of the body | base64, of SHA-1 |
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
from urllib.parse import parse_qsl, urlsplit

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
    covers_body: bool = True
    """Whether the body was signed as it came; else all that was signed is in `prefix`."""


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
    hash: ClassVar[Callable[..., Any]] = hashlib.sha256
    """Of the HMAC."""
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
            mac = hmac.new(key, claim.prefix, self.hash)
            if claim.covers_body:
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


class MetaSignature(GitHubSignature):
    """Accepts what Meta signed (WhatsApp, Messenger, Instagram), with the app's secret, or several while it is rotated.

    Source: https://developers.facebook.com/docs/graph-api/webhooks/getting-started#validate-payloads

    Example:
        >>> Webhook("/whatsapp", auth=MetaSignature(app_secret), challenge="meta")  # doctest: +SKIP
    """

    scheme = "meta"


class ShopifySignature(SignatureVerifier):
    """Accepts deliveries that Shopify signed, with the app's client secret, or several while it is rotated.

    The scheme has no timestamp; `Webhook(dedupe="X-Shopify-Webhook-Id")` keeps a delivery from being handled twice.

    Source: https://shopify.dev/docs/apps/build/webhooks/verify-deliveries

    Example:
        >>> Webhook("/orders", auth=ShopifySignature(client_secret), dedupe="X-Shopify-Webhook-Id")  # doctest: +SKIP
    """

    scheme = "shopify"

    def _claim(self, request: AuthRequest) -> Claim | None:
        signature = header_bytes(request, "X-Shopify-Hmac-Sha256")
        return None if signature is None else Claim((signature,))

    def _written(self, digest: bytes) -> bytes:
        return base64.b64encode(digest)


class SlackSignature(TimedVerifier):
    """Accepts requests that Slack signed, with the app's signing secret; arguments as of `TimedVerifier`.

    Source: https://docs.slack.dev/authentication/verifying-requests-from-slack

    Example:
        >>> Webhook("/slack", auth=SlackSignature(signing_secret))  # doctest: +SKIP
    """

    scheme = "slack"
    headers: ClassVar[tuple[str, str]] = ("X-Slack-Request-Timestamp", "X-Slack-Signature")

    def _claim(self, request: AuthRequest) -> Claim | None:
        timestamp, signature = (header_bytes(request, name) for name in self.headers)
        if timestamp is None or signature is None:
            return None
        return Claim((signature,), timestamp, b"v0:" + timestamp + b":")

    def _written(self, digest: bytes) -> bytes:
        return b"v0=" + digest.hex().encode()


class ZoomSignature(SlackSignature):
    """Accepts events that Zoom signed, with the app's secret token; arguments as of `TimedVerifier`.

    Source: https://developers.zoom.us/docs/api/webhooks/#verify-webhook-events

    Example:
        >>> Webhook("/zoom", auth=ZoomSignature(secret_token), challenge="zoom")  # doctest: +SKIP
    """

    scheme = "zoom"
    headers: ClassVar[tuple[str, str]] = ("x-zm-request-timestamp", "x-zm-signature")


MAX_FORM_FIELDS = 1_000

FORM = "application/x-www-form-urlencoded"


class TwilioSignature(SignatureVerifier):
    """Accepts requests that Twilio signed: the URL as Twilio called it, and the form, or the hash of another body.

    Source: https://www.twilio.com/docs/usage/security#validating-requests

    Args:
        secret: The account's auth token, or several while it is rotated.
        base_url: Scheme and host that Twilio calls, such as `"https://bot.example"`, where a proxy in front changes
            them and is not one of `serve(trusted_proxies=[...])`. None takes the request's own.

    Raises:
        ConfigurationError: There is no secret, one is empty, or the URL is none.

    Example:
        >>> Webhook("/call", auth=TwilioSignature(auth_token))  # doctest: +SKIP
    """

    scheme = "twilio"
    hash: ClassVar[Callable[..., Any]] = (
        hashlib.sha1
    )  # Twilio's choice; an HMAC of it is not known to be broken (RFC 6194, 3.3)

    def __init__(self, secret: str | Iterable[str], base_url: str | None = None) -> None:
        super().__init__(secret)
        parts = None if base_url is None else urlsplit(base_url)
        if parts is not None and (parts.scheme not in ("http", "https") or not parts.hostname or parts.query):
            raise ConfigurationError(f"TwilioSignature(base_url={base_url!r}): such as 'https://bot.example'")
        self._base = None if base_url is None else base_url.rstrip("/")

    def _problem(self, request: AuthRequest) -> str | None:
        problem = super()._problem(request)
        if problem is None or header_bytes(request, "X-Twilio-Signature") is None:
            return problem
        return f"{problem}, or Twilio called another URL than {self._url(request).partition('?')[0]!r}: see base_url"

    def _url(self, request: AuthRequest) -> str:
        parts = urlsplit(request.url)
        rest = f"{parts.path}?{parts.query}" if parts.query else parts.path
        return f"{self._base or f'{parts.scheme}://{parts.netloc}'}{rest}"

    def _claim(self, request: AuthRequest) -> Claim | None:
        signature = header_bytes(request, "X-Twilio-Signature")
        if signature is None:
            return None
        url, body = self._url(request), request.body
        media_type = (request.header("Content-Type") or "").partition(";")[0].strip().lower()
        fields: list[tuple[str, str]] = []
        if (given := request.query.get("bodySHA256")) is not None:
            if not hmac.compare_digest(hashlib.sha256(body).hexdigest().encode(), given.lower().encode()):
                return None
        elif body and media_type != FORM:
            return None  # nothing would speak for such a body
        elif body:
            try:
                fields = parse_qsl(body.decode("latin-1"), keep_blank_values=True, max_num_fields=MAX_FORM_FIELDS)
            except ValueError:
                return None
        form = "".join(name + value for name, value in sorted(set(fields)))
        return Claim((signature,), None, (url + form).encode("utf-8", "surrogatepass"), covers_body=False)

    def _written(self, digest: bytes) -> bytes:
        return base64.b64encode(digest)


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
