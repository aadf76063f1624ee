"""What callers try, provider by provider: who each of them turns out to be, and whether it may speak for others."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from definable.agent.auth import (
    AllowlistAuth,
    APIKeyAuth,
    AuthContext,
    AuthProvider,
    AuthRequest,
    CompositeAuth,
    GitHubSignature,
    JWTAuth,
    SlackSignature,
    StandardWebhookSignature,
    StripeSignature,
)
from definable.agent.auth.base import authenticate, why_refused
from definable.agent.trigger import Headers

pytestmark = pytest.mark.anyio

KEY = "k" * 32
SECRET = "s" * 32
OTHER_SECRET = "o" * 32
BODY = b'{"user_id": "mallory"}'
KEY_USER = f"apikey_{hashlib.sha256(KEY.encode()).hexdigest()[:12]}"


def token(secret: str = SECRET, **claims: Any) -> str:
    return jwt.encode(claims, secret, "HS256")


def unsigned(**claims: Any) -> str:
    parts = [{"alg": "none"}, claims]
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts) + "."


def bearer(value: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {value}"}


def hub(secret: str, body: bytes = BODY) -> dict[str, str]:
    return {"X-Hub-Signature-256": f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"}


KEYS, TOKENS, LIST, SIGNED = APIKeyAuth(KEY), JWTAuth(SECRET), AllowlistAuth({"7"}), GitHubSignature(SECRET)
ALL = CompositeAuth(KEYS, TOKENS, LIST, SIGNED)
ALICE = token(sub="alice", exp=time.time() + 600)
EXPIRED = token(sub="alice", exp=time.time() - 600)
CHAT = {"platform": "telegram", "user_id": "7", "chat_id": "7"}

ATTEMPTS: list[tuple[AuthProvider, dict[str, Any], tuple[str, bool] | None]] = [
    (KEYS, {"headers": {"X-API-Key": KEY}}, (KEY_USER, True)),
    (KEYS, {"headers": bearer(KEY)}, (KEY_USER, True)),
    (KEYS, {"headers": {}}, None),
    (KEYS, {"headers": {"X-API-Key": KEY[:-1]}}, None),
    (KEYS, {"headers": bearer(ALICE)}, None),
    (KEYS, {"headers": {"X-API-Key": KEY}, **CHAT}, None),
    (TOKENS, {"headers": bearer(ALICE)}, ("alice", False)),
    (TOKENS, {"headers": bearer(token(sub="alice", user_id="mallory"))}, ("alice", False)),
    (TOKENS, {"headers": bearer(ALICE), "body": BODY}, ("alice", False)),
    (TOKENS, {"headers": bearer(ALICE), "metadata": {"user_id": "mallory"}}, ("alice", False)),
    (TOKENS, {"headers": bearer(EXPIRED)}, None),
    (TOKENS, {"headers": bearer(unsigned(sub="alice"))}, None),
    (TOKENS, {"headers": bearer(token(OTHER_SECRET, sub="alice"))}, None),
    (TOKENS, {"headers": bearer(token(sub="alice", aud="another service"))}, None),
    (TOKENS, {"headers": bearer(token())}, None),
    (TOKENS, {"headers": bearer(KEY)}, None),
    (TOKENS, {"headers": bearer(ALICE), **CHAT}, None),
    (LIST, CHAT, ("telegram:7", False)),
    (LIST, {**CHAT, "user_id": "8"}, None),
    (LIST, {**CHAT, "platform": "http"}, None),
    (LIST, {"headers": {"user_id": "7"}}, None),
    (SIGNED, {"headers": hub(SECRET), "body": BODY}, ("github", False)),
    (SIGNED, {"headers": hub(SECRET), "body": BODY + b" "}, None),
    (SIGNED, {"headers": hub(SECRET)}, None),
    (SIGNED, {"headers": hub(OTHER_SECRET), "body": BODY}, None),
    (SIGNED, {"headers": {}, "body": BODY}, None),
    (ALL, {"headers": {"X-API-Key": KEY, **bearer(ALICE)}}, (KEY_USER, True)),
    (ALL, {"headers": {"X-API-Key": "wrong", **bearer(ALICE)}}, ("alice", False)),
    (ALL, CHAT, ("telegram:7", False)),
    (ALL, {"headers": hub(SECRET), "body": BODY}, ("github", False)),
    (ALL, {"headers": bearer(EXPIRED), "body": BODY}, None),
    (ALL, {}, None),
]


@pytest.mark.parametrize(("provider", "attempt", "outcome"), ATTEMPTS)
async def test_an_attempt(provider: AuthProvider, attempt: dict[str, Any], outcome: tuple[str, bool] | None) -> None:
    context = await authenticate(provider, AuthRequest(**attempt))
    assert (None if context is None else (context.user_id, context.may_act_for_others)) == outcome


# No input makes a provider raise.

WHSEC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
PROVIDERS = [
    KEYS,
    TOKENS,
    LIST,
    SIGNED,
    SlackSignature(SECRET),
    StripeSignature(SECRET),
    StandardWebhookSignature(WHSEC),
]

HEADER_NAMES = [
    *("Authorization", "X-API-Key", "X-Hub-Signature-256", "Stripe-Signature"),
    *("X-Slack-Signature", "X-Slack-Request-Timestamp", "webhook-id", "webhook-timestamp", "webhook-signature"),
    *("svix-id", "svix-timestamp", "svix-signature"),
]

shapes = st.sampled_from(
    ["{}", "Bearer {}", "sha256={}", "v0={}", "v1,{}", "v1,{} v1,{}", "t={},v1={}", "t=1700000000,v1={}", "{0}.{0}.{0}"]
)
text = st.one_of(st.text(), st.from_regex(r"\d{1,30}", fullmatch=True), st.characters().map(lambda c: c * 5000))
values = st.builds(lambda shape, value: shape.format(value, value), shapes, text)
mappings = st.dictionaries(st.sampled_from(HEADER_NAMES), values)
wire = st.lists(st.tuples(st.sampled_from(HEADER_NAMES).map(str.encode), st.binary(max_size=100))).map(Headers)


@given(
    headers=st.one_of(mappings, wire),
    body=st.binary(max_size=200),
    platform=st.sampled_from(["http", "telegram", "", "\ud800"]),
    user_id=st.one_of(st.none(), text),
    chat_id=st.one_of(st.none(), text),
)
def test_no_input_makes_a_provider_raise_or_accept(
    headers: Mapping[str, str], body: bytes, platform: str, user_id: str | None, chat_id: str | None
) -> None:
    request = AuthRequest(platform, user_id, None, chat_id, headers, {}, body=body)
    for provider in PROVIDERS:
        answer = provider.authenticate(request)
        assert isinstance(why_refused(provider, request), str)
        assert answer is None or (provider is LIST and answer == AuthContext(f"{platform}:7", answer.metadata))


@pytest.mark.parametrize("user_id", [5, None])
async def test_a_provider_whose_user_id_is_no_string_denies(user_id: Any) -> None:
    """A store that keeps text would not know the user again, and takes nobody for the owner of what nobody owns."""

    class Rows:
        async def authenticate(self, request: AuthRequest) -> AuthContext:
            return AuthContext(user_id)

    with pytest.raises(TypeError, match=f"user_id={user_id}"):
        await authenticate(Rows(), AuthRequest())
