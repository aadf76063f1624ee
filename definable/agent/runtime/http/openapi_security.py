"""Who may call, in the OpenAPI document: one security scheme for each auth provider."""

from __future__ import annotations

from collections.abc import Container, Iterator
from itertools import chain, count

from definable.agent.auth.base import AuthProvider, speaks_on
from definable.agent.auth.jwt import JWTAuth
from definable.agent.auth.providers import APIKeyAuth, CompositeAuth
from definable.agent.auth.signature import SignatureVerifier


def unused(stem: str, taken: Container[str]) -> str:
    """The stem, with a number when it is taken."""
    candidates = chain([stem], (f"{stem}_{number}" for number in count(2)))
    return next(candidate for candidate in candidates if candidate not in taken)


SIGNATURE_HEADERS = {
    "github": "X-Hub-Signature-256",
    "slack": "X-Slack-Signature",
    "standard_webhooks": "webhook-signature",
    "stripe": "Stripe-Signature",
    "meta": "X-Hub-Signature-256",
    "shopify": "X-Shopify-Hmac-Sha256",
    "twilio": "X-Twilio-Signature",
    "zoom": "x-zm-signature",
}
"""Where each scheme carries its signature."""


class SecuritySchemes:
    """The security schemes of one document: one for each provider, however many endpoints it guards."""

    def __init__(self) -> None:
        self.definitions: dict[str, dict[str, str]] = {}
        """Schemes by name, as the document's components have them."""
        self._names: dict[int, str] = {}

    def requirements(self, provider: AuthProvider | None) -> list[dict[str, list[str]]]:
        """What a caller needs for an endpoint: one of these; none for a public one."""
        if provider is None:
            return []
        return [{self._name(way): []} for way in ways_in(provider)]

    def _name(self, provider: AuthProvider) -> str:
        known = self._names.get(id(provider))
        if known is not None:
            return known
        stem, definition = scheme_of(provider)
        name = unused(stem, self.definitions)
        self._names[id(provider)] = name
        self.definitions[name] = definition
        return name


def ways_in(provider: AuthProvider) -> Iterator[AuthProvider]:
    """The providers that may accept an HTTP request, each on its own; the one that is given, where none of them may."""
    if not isinstance(provider, CompositeAuth) or not speaks_on(provider, "http"):
        yield provider
        return
    for part in provider.providers:
        if speaks_on(part, "http"):
            yield from ways_in(part)


def scheme_of(provider: AuthProvider) -> tuple[str, dict[str, str]]:
    """A provider's security scheme, with a name for it."""
    match provider:
        case APIKeyAuth():
            return "api_key", in_header(provider.header, "An API key.")
        case JWTAuth():
            return "jwt", {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
        case SignatureVerifier() if provider.scheme in SIGNATURE_HEADERS:
            header = SIGNATURE_HEADERS[provider.scheme]
            return f"{provider.scheme}_signature", in_header(header, "The sender's signature of the body.")
        case _:
            return "authorization", in_header("Authorization", f"What {type(provider).__name__} accepts.")


def in_header(name: str, description: str) -> dict[str, str]:
    """A scheme whose credentials are a header's whole value."""
    return {"type": "apiKey", "in": "header", "name": name, "description": description}
