"""Tokens of an identity provider whose keys are fetched: over a real socket, on both backends."""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from loopback.identity_provider import DISCOVERY, KEYS, IdentityProvider, answer, jwk_of

from definable.agent import Agent
from definable.agent.auth import APIKeyAuth, AuthContext, AuthRequest, CompositeAuth, JWTAuth
from definable.agent.auth import published_keys as module
from definable.agent.auth.base import authenticate
from definable.concurrency.rate_limits import Rate
from definable.errors import AuthUnavailable, ConfigurationError
from definable.testing import served

pytestmark = pytest.mark.anyio

TIME_LIMIT = 60.0
"""Seconds."""


@pytest.fixture
async def provider() -> AsyncIterator[IdentityProvider]:
    with anyio.fail_after(TIME_LIMIT):
        async with IdentityProvider().running() as running:
            yield running


@pytest.fixture(autouse=True)
def no_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FETCH_PACE", Rate(1000, 1.0))


def by_url(provider: IdentityProvider, **options: Any) -> JWTAuth:
    return JWTAuth(jwks_url=provider.url + KEYS, **options)


async def asked(auth: JWTAuth, token: str) -> AuthContext | None:
    return await authenticate(auth, AuthRequest(headers={"Authorization": f"Bearer {token}"}))


# Where the keys come from.


async def test_the_issuer_says_where_its_keys_are(provider: IdentityProvider) -> None:
    for issuer in (provider.url, provider.url + "/"):
        auth = JWTAuth(issuer=issuer, audience="me")
        context = await asked(auth, provider.token(aud="me", role="admin"))
        assert context is not None and (context.user_id, context.metadata["role"]) == ("ann", "admin")
        assert await asked(auth, provider.token(aud="other")) is None
        assert await asked(auth, provider.token(aud="me", iss="https://other.example")) is None
    assert provider.fetches == [DISCOVERY, KEYS] * 2


async def test_a_discovery_document_of_another_issuer_is_refused(provider: IdentityProvider) -> None:
    provider.answer = lambda path: (
        answer({"issuer": "https://other.example", "jwks_uri": provider.url + KEYS}) if path == DISCOVERY else None
    )
    with pytest.raises(AuthUnavailable):
        await asked(JWTAuth(issuer=provider.url), provider.token())
    assert KEYS not in provider.fetches


@pytest.mark.parametrize("url", ["http://keys.example/jwks", "file:///etc/passwd", None, 7, "https://u:p@id.example"])
async def test_a_discovery_document_cannot_lead_where_keys_could_be_forged(
    provider: IdentityProvider, url: Any
) -> None:
    provider.answer = lambda path: answer({"issuer": provider.url, "jwks_uri": url})
    with pytest.raises(AuthUnavailable):
        await asked(JWTAuth(issuer=provider.url), provider.token())
    assert provider.fetches == [DISCOVERY]


# Which keys and algorithms.


@pytest.mark.parametrize("name", [True, False], ids=["by name", "without names"])
async def test_keys_of_every_kind_verify_each_with_its_own_algorithm(provider: IdentityProvider, name: bool) -> None:
    keys = [
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP256R1()),
        ed25519.Ed25519PrivateKey.generate(),
    ]
    kids = ["a", "b", "c"] if name else [None] * 3
    provider.published = [jwk_of(key, kid) for key, kid in zip(keys, kids, strict=True)]
    auth = by_url(provider)
    for key, kid in zip(keys, kids, strict=True):
        assert await asked(auth, provider.token(key, kid=kid)) is not None
    if name:
        assert await asked(auth, provider.token(keys[0], kid="b")) is None
    assert await asked(by_url(provider, algorithm="EdDSA"), provider.token(keys[0], kid=kids[0])) is None


async def test_a_public_key_is_never_a_shared_secret(provider: IdentityProvider) -> None:
    key = rsa.generate_private_key(65537, 2048)
    provider.published = [jwk_of(key, "a")]
    auth = by_url(provider)
    assert await asked(auth, provider.token(key, kid="a")) is not None
    texts = [
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        json.dumps(provider.published[0]).encode(),
        base64.urlsafe_b64decode(provider.published[0]["n"] + "=="),
    ]
    for secret in texts:
        for alg in ("HS256", "none"):
            content = b".".join(
                encoded(part) for part in ({"alg": alg, "kid": "a"}, {"sub": "eve", "iss": provider.url})
            )
            signature = base64.urlsafe_b64encode(hmac.digest(secret, content, "sha256")).rstrip(b"=")
            assert await asked(auth, (content + b"." + signature).decode()) is None


def encoded(part: dict[str, Any]) -> bytes:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")


@pytest.mark.filterwarnings("ignore:The RSA key is 1024 bits")
async def test_what_cannot_verify_is_left_out_of_a_key_set(provider: IdentityProvider) -> None:
    secret = "s" * 64
    weak = rsa.generate_private_key(65537, 1024)
    symmetric = {"kty": "oct", "k": base64.urlsafe_b64encode(secret.encode()).decode().rstrip("="), "kid": "secret"}
    private = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(provider.key)) | {"kid": "private"}
    others: list[Any] = [
        symmetric,
        private,
        jwk_of(weak, "weak"),
        jwk_of(provider.key, "encryption", use="enc"),
        jwk_of(provider.key, "wrapping", key_ops=["wrapKey"]),
        {"kty": "PQC", "kid": "later"},
        {"kty": "EC", "kid": "broken", "crv": "P-256", "x": "!", "y": 7},
        None,
        "text",
    ]
    provider.published = [*others, jwk_of(provider.key, "good", use="sig", alg="ES256")]
    auth = by_url(provider)
    assert await asked(auth, provider.token(kid="good")) is not None
    for kid in ("private", "encryption", "wrapping", "later", "broken"):
        assert await asked(auth, provider.token(kid=kid)) is None
    assert await asked(auth, provider.token(weak, kid="weak")) is None
    assert await asked(auth, jwt.encode({"sub": "eve"}, secret, "HS256", headers={"kid": "secret"})) is None


# Rotation.


async def test_while_keys_rotate_no_valid_token_is_refused_and_none_invalid_accepted(
    provider: IdentityProvider,
) -> None:
    agent = Agent("offline", auth=JWTAuth(issuer=provider.url))
    rotations, burst = 5, 30
    answers: list[int] = []
    forged: list[int] = []
    stranger = ec.generate_private_key(ec.SECP256R1())

    async def call(client: httpx2.AsyncClient, headers: dict[str, str], statuses: list[int]) -> None:
        statuses.append((await client.get("/runs", headers=headers)).status_code)

    async with served(agent) as service:
        assert (await service.client.get("/runs", headers=provider.bearer())).status_code == 200
        for _ in range(rotations):
            fetched = provider.fetches.count(KEYS)
            before = provider.bearer()
            provider.rotate()
            async with anyio.create_task_group() as group:
                for _ in range(burst):
                    group.start_soon(call, service.client, provider.bearer(), answers)
            assert provider.fetches.count(KEYS) == fetched + 1, "one fetch a burst"
            async with anyio.create_task_group() as group:
                group.start_soon(call, service.client, before, forged)
                group.start_soon(call, service.client, provider.bearer(key=stranger), forged)
                group.start_soon(call, service.client, provider.bearer(key=stranger, kid="nobody's"), forged)
    assert answers == [200] * (rotations * burst)
    assert forged == [401] * (rotations * 3)
    assert provider.fetches.count(DISCOVERY) == 1


@pytest.mark.parametrize("kid", ["1", None], ids=["the same name", "no name"])
async def test_a_rotation_that_changes_no_name_is_noticed_too(provider: IdentityProvider, kid: str | None) -> None:
    provider.rotate(kid=kid)
    auth = by_url(provider)
    assert await asked(auth, provider.token()) is not None
    former = provider.token()
    provider.rotate(kid=kid)
    assert await asked(auth, provider.token()) is not None
    assert await asked(auth, former) is None


async def test_names_that_nobody_knows_have_the_keys_fetched_at_a_bounded_pace(
    provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FETCH_PACE", Rate(2, 4.0))
    auth = by_url(provider)
    assert await asked(auth, provider.token()) is not None
    began = anyio.current_time()
    async with anyio.create_task_group() as group:
        for number in range(200):
            group.start_soon(asked, auth, provider.token(kid=f"made up {number}"))
    provider.rotate()
    assert await asked(auth, provider.token()) is not None, "it waits for the next fetch, and is not refused"
    passed = anyio.current_time() - began
    assert len(provider.fetches) <= 2 + 1 + passed / 2.0


async def test_who_leaves_while_keys_are_fetched_holds_up_nobody(provider: IdentityProvider) -> None:
    auth = by_url(provider)
    provider.hold = anyio.Event()
    with anyio.move_on_after(0.2) as gone:
        await asked(auth, provider.token())
    assert gone.cancelled_caught
    provider.hold.set()
    assert await asked(auth, provider.token()) is not None


# Away, and wrong.


async def test_while_the_provider_is_away_known_keys_go_on_and_others_are_no_401(
    provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "REFRESH_INTERVAL", 0.05)
    monkeypatch.setattr(module, "RETRY_INTERVAL", 0.05)
    agent = Agent("offline", auth=JWTAuth(issuer=provider.url))
    async with served(agent) as service:
        known = provider.bearer()
        assert (await service.client.get("/runs", headers=known)).status_code == 200
        provider.is_away = True
        while "cannot be fetched" not in caplog.text:  # it was asked, and was away
            assert (await service.client.get("/runs", headers=known)).status_code == 200
        provider.rotate(keep=True)
        response = await service.client.get("/runs", headers=provider.bearer())
        assert response.status_code == 503 and response.headers["retry-after"]
        assert (await service.client.get("/runs", headers=known)).status_code == 200
        provider.is_away = False
        assert (await service.client.get("/runs", headers=provider.bearer())).status_code == 200
    assert "the known ones go on" in caplog.text
    assert "Traceback" not in caplog.text


async def test_known_keys_do_not_go_on_for_ever(provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    auth = by_url(provider)
    assert await asked(auth, provider.token()) is not None
    provider.is_away = True
    later = time.time() + module.MAX_AGE + 1
    monkeypatch.setattr("definable.concurrency.clock.time.time", lambda: later)
    with pytest.raises(AuthUnavailable):
        await asked(auth, provider.token(exp=int(later) + 60))


async def test_a_key_that_was_taken_back_ends_with_the_next_refresh(
    provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    auth = by_url(provider)
    former = provider.token()
    assert await asked(auth, former) is not None
    provider.rotate()
    assert await asked(auth, former) is not None, "it is known"
    monkeypatch.setattr(module, "REFRESH_INTERVAL", -1.0)
    monkeypatch.setattr(module, "RETRY_INTERVAL", -1.0)
    assert await asked(auth, former) is None


async def test_a_service_begins_although_the_provider_is_away(provider: IdentityProvider) -> None:
    provider.is_away = True
    agent = Agent("offline", auth=CompositeAuth(APIKeyAuth("k"), JWTAuth(issuer=provider.url)))
    async with served(agent) as service:
        assert (await service.client.get("/runs", headers={"x-api-key": "k"})).status_code == 200
        provider.is_away = False
        assert (await service.client.get("/runs", headers=provider.bearer())).status_code == 200


@pytest.mark.parametrize(
    "wrong",
    [
        answer({"keys": []}),
        answer({"keys": "none"}),
        answer([]),
        answer({}),
        answer({"keys": [{"kty": "oct", "k": "AAAA"}]}),
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno!",
        b"HTTP/1.1 200 OK\r\nContent-Length: 300\r\nConnection: close\r\n\r\nno!",
        b"no HTTP at all",
        answer({"keys": []}, "500 Internal Server Error"),
        answer({}, "302 Found", "Location: /elsewhere"),
        answer({"keys": [{"kid": "x" * module.MAX_DOCUMENT}]}),
    ],
    ids=repr,
)
async def test_a_wrong_answer_changes_nothing(
    provider: IdentityProvider, wrong: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    auth = by_url(provider)
    known = provider.token()
    assert await asked(auth, known) is not None
    provider.rotate()
    provider.answer = lambda path: wrong
    with pytest.raises(AuthUnavailable):
        await asked(auth, provider.token())
    assert await asked(auth, known) is not None
    assert "/elsewhere" not in provider.fetches
    assert "cannot be fetched" in caplog.text


async def test_an_answer_that_never_comes_is_waited_for_a_bounded_time(
    provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FETCH_TIMEOUT", 0.2)
    provider.hold = anyio.Event()
    with pytest.raises(AuthUnavailable):
        await asked(by_url(provider), provider.token())


async def test_auth_that_is_set_while_serving_has_keys_too(provider: IdentityProvider) -> None:
    agent = Agent("offline")
    async with served(agent) as service:
        agent.auth = by_url(provider)
        assert (await service.client.get("/runs", headers=provider.bearer())).status_code == 200
        assert (await service.client.get("/runs", headers=provider.bearer(exp=1))).status_code == 401


# What makes none.


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"jwks_url": "http://id.example/keys"}, "https"),
        ({"issuer": "http://id.example"}, "https"),
        ({"jwks_url": "https://user:secret-password@id.example/keys"}, "without user"),
        ({"jwks_url": "id.example/keys"}, "a URL"),
        ({"jwks_url": "https://[/keys"}, "a URL"),
        ({"jwks_url": 7}, "a URL"),
        ({"issuer": ["https://a.example", "https://b.example"]}, "several"),
        ({"jwks_url": "https://id.example/keys", "secret": "s" * 32}, "one of the two"),
        ({"jwks_url": "https://id.example/keys", "algorithm": ["RS256", "HS256"]}, "HS256"),
        ({"jwks_url": "https://id.example/keys", "leeway": -1}, "leeway"),
    ],
)
def test_what_could_be_forged_or_is_no_url_is_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named) as caught:
        JWTAuth(**options)
    assert "secret-password" not in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "[::1]", "10.1.2.3", "keycloak:8080", "id.internal", "localhost"])
def test_a_private_network_needs_no_https(host: str) -> None:
    assert JWTAuth(issuer=f"http://{host}/realms/shop")
