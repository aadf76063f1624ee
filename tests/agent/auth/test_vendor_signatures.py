"""What vendors' own packages sign is accepted, and nothing that differs from it.

vendor_signatures.json was made by those packages, each row by the version that it names; together they weigh 120 MB
and are no dependencies for that reason:

| Vendor | Signed by |
|---|---|
| Slack | slack_sdk.signature.SignatureVerifier.generate_signature |
| Stripe | stripe.WebhookSignature.generate_signature_header |
| Standard Webhooks | svix.Webhook.sign; the tests call standardwebhooks itself besides (test_signature.py) |
| Twilio | twilio.request_validator.RequestValidator.compute_signature |
| GitHub | sign of the Node package @octokit/webhooks-methods |
| Shopify | createSHA256HMAC, by which the Node package @shopify/shopify-api validates |

Meta and Zoom publish no package that signs or verifies: test_signature.py has what their documentation says.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from definable.agent.auth import (
    AuthRequest,
    GitHubSignature,
    ShopifySignature,
    SlackSignature,
    StandardWebhookSignature,
    StripeSignature,
    TwilioSignature,
)
from definable.agent.auth.signature import SignatureVerifier

SIGNED_AT = 1_700_000_000

VERIFIERS: dict[str, Callable[[str], SignatureVerifier]] = {
    "github": GitHubSignature,
    "shopify": ShopifySignature,
    "slack": lambda secret: SlackSignature(secret, clock=lambda: SIGNED_AT + 10),
    "standard": lambda secret: StandardWebhookSignature(secret, clock=lambda: SIGNED_AT + 10),
    "stripe": lambda secret: StripeSignature(secret, clock=lambda: SIGNED_AT + 10),
    "twilio": TwilioSignature,
}

ROWS: list[dict[str, Any]] = json.loads(Path(__file__).with_name("vendor_signatures.json").read_text())


def is_accepted(row: dict[str, Any], secret: str | None = None, body: bytes | None = None, **headers: str) -> bool:
    verifier = VERIFIERS[row["vendor"]](row["secret"] if secret is None else secret)
    url = row.get("url", "https://bot.example/hook")
    request = AuthRequest(
        headers=row["headers"] | headers,
        method="POST",
        url=url,
        query=dict(parse_qsl(urlsplit(url).query)),
        body=row["body"].encode() if body is None else body,
    )
    return verifier.authenticate(request) is not None


def test_there_are_signatures_of_each_vendor() -> None:
    assert Counter(row["vendor"] for row in ROWS).keys() == VERIFIERS.keys()


@pytest.mark.parametrize("vendor", sorted(VERIFIERS))
def test_what_the_vendors_package_signed_is_accepted(vendor: str) -> None:
    refused = [row for row in ROWS if row["vendor"] == vendor and not is_accepted(row)]
    assert refused == []


@pytest.mark.parametrize("vendor", sorted(VERIFIERS))
def test_what_differs_from_it_is_refused(vendor: str) -> None:
    for row in ROWS:
        if row["vendor"] != vendor:
            continue
        assert not is_accepted(row, body=row["body"].encode() + b"&x=1")
        other = next(each["secret"] for each in ROWS if each["vendor"] == vendor and each["secret"] != row["secret"])
        assert not is_accepted(row, secret=other)
        name, signature = [*row["headers"].items()][-1 if vendor != "twilio" else 0]
        at = signature.rindex("=") - 3 if signature.endswith("=") else len(signature) - 1
        changed = signature[:at] + ("0" if signature[at] != "0" else "1") + signature[at + 1 :]
        assert not is_accepted(row, **{name: changed})
