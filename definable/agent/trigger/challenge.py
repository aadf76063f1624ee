"""Handshakes by which a platform finds out whether a URL wants its webhooks: pure. A `Webhook` has them by
`challenge=`.

| Preset | Asked | Answered |
|---|---|---|
| `"slack"` | JSON `{"type": "url_verification", "challenge": ...}`, signed | the challenge, as text |
| `"meta"` | `GET ?hub.mode=subscribe&hub.challenge=...&hub.verify_token=...` | the challenge, as text |
| `"graph"` | `?validationToken=...` (Microsoft Graph) | the token, as text |
| `"zoom"` | JSON `{"event": "endpoint.url_validation", ...}`, signed | the token and its HMAC-SHA256 |
| `"echo"` | `GET ?challenge=...` (Dropbox, Nylas), JSON `{"challenge": ...}` (monday.com), Twitch | the challenge |
| `"echo"` | HEAD (Trello) | 200 |
| `"cloudevents"` | OPTIONS with `WebHook-Request-Origin` (Azure Event Grid) | 200 with `WebHook-Allowed-Origin` |

What is asked by the query or by OPTIONS is not signed, so it is answered before auth: all that a stranger gets is his
own text back.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, cast

from definable.errors import ConfigurationError

from .base import TriggerEvent
from .request import Reply

Preset: TypeAlias = Literal["slack", "meta", "graph", "zoom", "cloudevents", "echo"]

PLAIN = {"content-type": "text/plain; charset=utf-8", "x-content-type-options": "nosniff"}
"""No browser must take for a page what a stranger had sent back."""


class Challenge:
    """One kind of handshake: a kind defines one way to ask, or several."""

    def by_query(self, method: str, query: Mapping[str, str]) -> Reply | None:
        """The answer to a question in the query, which nobody has signed; None when there is none."""
        return None

    def by_options(self, headers: Mapping[str, str], methods: Sequence[str]) -> Reply | None:
        """The answer to an OPTIONS that nobody has signed, of a webhook of these methods; None when it asks nothing."""
        return None

    def by_body(self, event: TriggerEvent, sign: Sign | None) -> Reply | None:
        """The answer to a question in a body that auth let in; None when there is none."""
        return None


Sign: TypeAlias = Callable[[bytes], bytes]
"""HMAC-SHA256 of a message, with the secret that the webhook's own auth shares with the platform."""


class SlackChallenge(Challenge):
    """https://docs.slack.dev/reference/events/url_verification"""

    def by_body(self, event: TriggerEvent, sign: Sign | None) -> Reply | None:
        body = fields_of(event)
        return echoed(body.get("challenge")) if body.get("type") == "url_verification" else None


class MetaChallenge(Challenge):
    """WhatsApp, Instagram, Messenger: https://developers.facebook.com/docs/graph-api/webhooks/getting-started

    Args:
        verify_token: What was entered beside the URL; another one is answered 403. None lets any through: events are
            known by their signature, not by this.

    Raises:
        ConfigurationError: The token is no string, or empty.
    """

    def __init__(self, verify_token: str | None = None) -> None:
        self._token = None if verify_token is None else checked_secret("MetaChallenge(verify_token", verify_token)

    def by_query(self, method: str, query: Mapping[str, str]) -> Reply | None:
        challenge = query.get("hub.challenge")
        if method not in ("GET", "HEAD") or query.get("hub.mode") != "subscribe" or challenge is None:
            return None
        token = query.get("hub.verify_token", "").encode()
        if self._token is not None and not hmac.compare_digest(token, self._token):
            return Reply("the verify token is another one", 403, PLAIN)
        return echoed(challenge)


class GraphChallenge(Challenge):
    """https://learn.microsoft.com/graph/change-notifications-delivery-webhooks"""

    def by_query(self, method: str, query: Mapping[str, str]) -> Reply | None:
        return echoed(query.get("validationToken"))


class ZoomChallenge(Challenge):
    """https://developers.zoom.us/docs/api/webhooks/#validate-your-webhook-endpoint

    Args:
        secret: The app's secret token; None takes the one of the webhook's own auth.

    Raises:
        ConfigurationError: The secret is no string, or empty.
    """

    def __init__(self, secret: str | None = None) -> None:
        self._secret = None if secret is None else checked_secret("ZoomChallenge(secret", secret)

    def by_body(self, event: TriggerEvent, sign: Sign | None) -> Reply | None:
        body = fields_of(event)
        payload = body.get("payload")
        if body.get("event") != "endpoint.url_validation" or not isinstance(payload, dict):
            return None
        token = cast("dict[str, Any]", payload).get("plainToken")
        if self._secret is not None:
            sign = self._sign
        # Zoom signs `v0:{timestamp}:{body}` with this secret: the MAC of such a text would be a stranger's signature.
        if not isinstance(token, str) or ":" in token or sign is None:
            return None
        return Reply({"plainToken": token, "encryptedToken": sign(token.encode()).hex()})

    def _sign(self, message: bytes) -> bytes:
        return hmac.digest(self._secret or b"", message, hashlib.sha256)


class EchoChallenge(Challenge):
    """Dropbox and Nylas ask by GET, Trello by HEAD, monday.com by JSON, Twitch by JSON and a header."""

    def by_query(self, method: str, query: Mapping[str, str]) -> Reply | None:
        if method == "HEAD":
            return Reply()
        return echoed(query.get("challenge")) if method == "GET" else None

    def by_body(self, event: TriggerEvent, sign: Sign | None) -> Reply | None:
        body = fields_of(event)
        challenge = body.get("challenge")
        headers = event.headers
        if headers is not None and headers.get("twitch-eventsub-message-type") == "webhook_callback_verification":
            return echoed(challenge)
        return Reply({"challenge": challenge}) if isinstance(challenge, str) and len(body) == 1 else None


class CloudEventsChallenge(Challenge):
    """https://github.com/cloudevents/spec/blob/main/cloudevents/http-webhook.md#4-abuse-protection"""

    def by_options(self, headers: Mapping[str, str], methods: Sequence[str]) -> Reply | None:
        origin = headers.get("webhook-request-origin")
        if not origin:
            return None
        allowed = {"allow": ", ".join(methods), "webhook-allowed-origin": origin}
        if "webhook-request-rate" in headers:
            allowed["webhook-allowed-rate"] = "*"
        return Reply("", 200, allowed)


class AnyChallenge(Challenge):
    """The first of several kinds that fits."""

    def __init__(self, *kinds: Challenge) -> None:
        self._kinds = kinds

    def by_query(self, method: str, query: Mapping[str, str]) -> Reply | None:
        return next(filter(None, (each.by_query(method, query) for each in self._kinds)), None)

    def by_options(self, headers: Mapping[str, str], methods: Sequence[str]) -> Reply | None:
        return next(filter(None, (each.by_options(headers, methods) for each in self._kinds)), None)

    def by_body(self, event: TriggerEvent, sign: Sign | None) -> Reply | None:
        return next(filter(None, (each.by_body(event, sign) for each in self._kinds)), None)


PRESETS: dict[str, Challenge] = {
    "slack": SlackChallenge(),
    "meta": MetaChallenge(),
    "graph": GraphChallenge(),
    "zoom": ZoomChallenge(),
    "cloudevents": CloudEventsChallenge(),
    "echo": EchoChallenge(),
}


def challenge_of(given: object) -> Challenge | Callable[[TriggerEvent], Any] | None:
    """What a `Webhook(challenge=...)` stands for.

    Raises:
        ConfigurationError: It stands for nothing.
    """
    if given is None or given is False:
        return None
    if given is True:
        return AnyChallenge(*PRESETS.values())
    if isinstance(given, str) and given in PRESETS:
        return PRESETS[given]
    if isinstance(given, Challenge):
        return given
    if callable(given) and not isinstance(given, type):
        return given
    raise ConfigurationError(
        f"Webhook(challenge={given!r}): True, one of {', '.join(map(repr, PRESETS))}, MetaChallenge(verify_token), "
        "ZoomChallenge(secret), or a function of the event"
    )


def reply_of(answer: Any) -> Reply | None:
    """What a function of the event answered, as a response: text as it is, anything else but a `Reply` as JSON."""
    if answer is None or isinstance(answer, Reply):
        return answer
    return Reply(answer, headers=PLAIN) if isinstance(answer, str) else Reply(answer)


def echoed(challenge: object) -> Reply | None:
    """The challenge itself, as text; None when it is none."""
    return Reply(challenge, headers=PLAIN) if isinstance(challenge, str) and challenge else None


def fields_of(event: TriggerEvent) -> dict[str, Any]:
    """The body's fields; none, when it is no JSON object."""
    body: Any = event.body
    return cast("dict[str, Any]", body) if isinstance(body, dict) else {}


def checked_secret(name: str, secret: str) -> bytes:
    """A secret as bytes.

    Raises:
        ConfigurationError: It is no string, or empty.
    """
    if not isinstance(secret, str) or not secret.strip():  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"{name}=...): a string that is not empty")
    return secret.encode()
