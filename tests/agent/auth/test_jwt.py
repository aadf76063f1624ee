"""Tokens: who they name, which are refused, and which keys make a verifier."""

import base64
import hmac
import json
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from loopback.identity_provider import jwk_of

from definable.agent.auth import AuthContext, AuthRequest, JWTAuth
from definable.agent.auth.token_verifier import LEEWAY, MAX_TOKEN
from definable.errors import ConfigurationError, MissingExtra

SECRET = "a secret of at least 32 bytes, no less"

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def public_pem(key: Key) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def private_pem(key: Key) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


RSA = rsa.generate_private_key(65537, 2048)
P256 = ec.generate_private_key(ec.SECP256R1())
ED25519 = ed25519.Ed25519PrivateKey.generate()
KEYS: dict[str, Key] = {"RS256": RSA, "PS256": RSA, "ES256": P256, "EdDSA": ED25519}


def signed(claims: dict[str, Any], key: Any = SECRET, algorithm: str = "HS256", **headers: Any) -> str:
    return jwt.encode(claims, key, algorithm, headers=headers or None)


def asked(provider: JWTAuth, token: str) -> AuthContext | None:
    answer = provider.authenticate(AuthRequest(headers={"Authorization": f"Bearer {token}"}))
    return cast("AuthContext | None", answer)  # keys that are given need no wait


def segment(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


# Who is named.


@pytest.mark.parametrize(
    ("claims", "user_id"),
    [
        ({"sub": "alice"}, "alice"),
        ({"user_id": "alice"}, "alice"),
        ({"id": "alice"}, "alice"),
        ({"sub": "alice", "user_id": "bob", "id": "carol"}, "alice"),
        ({"user_id": "bob", "id": "carol"}, "bob"),
        ({"sub": None, "user_id": "bob"}, "bob"),
        ({"sub": 42}, "42"),
        ({"sub": 0}, "0"),
        ({"sub": "auth0|5f7 née"}, "auth0|5f7 née"),
        ({"sub": "\u0645\u06cc\u200c\u0646\u0627"}, "\u0645\u06cc\u200c\u0646\u0627"),
    ],
)
def test_the_user_is_named_by_sub_else_user_id_else_id(claims: dict[str, Any], user_id: str) -> None:
    context = asked(JWTAuth(SECRET), signed(claims))
    assert context is not None and context.user_id == user_id


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"name": "alice"},
        {"sub": ""},
        {"sub": "  "},
        {"sub": "", "user_id": "bob"},
        {"sub": True},
        {"sub": 1.5},
        {"sub": ["alice"]},
        {"sub": {"id": "alice"}},
        {"sub": "a\nlog line"},
        {"sub": "a\x00"},
        {"sub": "\ud800"},
    ],
)
def test_a_token_that_names_nobody_is_refused(claims: dict[str, Any]) -> None:
    assert asked(JWTAuth(SECRET), signed(claims)) is None


def test_the_other_claims_are_metadata_and_none_can_pose_as_the_method() -> None:
    claims = {"sub": "alice", "user_id": "bob", "roles": ["admin"], "auth_method": "api_key"}
    context = asked(JWTAuth(SECRET), signed(claims))
    assert context is not None
    assert context.metadata == {"user_id": "bob", "roles": ["admin"], "auth_method": "jwt"}


def test_a_users_token_does_not_speak_for_others() -> None:
    context = asked(JWTAuth(SECRET), signed({"sub": "alice", "may_act_for_others": True}))
    assert context is not None and not context.may_act_for_others


# Where the token is.


@pytest.mark.parametrize(
    ("value", "accepted"),
    [
        ("Bearer {}", True),
        ("bearer {}", True),
        ("BEARER  {} ", True),
        ("{}", False),
        ("Basic {}", False),
        ("Bearer{}", False),
        ("Bearer", False),
        ("Bearer ", False),
        ("Bearer {0}, Bearer {0}", False),
        ("Bearer {}, !", False),
        ("Bearer {}=", False),
        ("Bearer {}.", False),
        ("Bearer {}\xff", False),
    ],
)
def test_it_is_the_bearer_token_of_authorization(value: str, accepted: bool) -> None:
    headers = {"authorization": value.format(signed({"sub": "alice"}))}
    assert (JWTAuth(SECRET).authenticate(AuthRequest(headers=headers)) is not None) is accepted


def test_it_is_nowhere_else() -> None:
    token = signed({"sub": "alice"})
    provider = JWTAuth(SECRET)
    for request in (
        AuthRequest(headers={"X-API-Key": token, "Cookie": f"token={token}"}, metadata={"token": token}),
        AuthRequest(platform="telegram", user_id="alice", headers={"Authorization": f"Bearer {token}"}),
        AuthRequest(),
    ):
        assert provider.authenticate(request) is None


# Which tokens are refused.


@pytest.mark.parametrize(
    ("claim", "seconds", "accepted"),
    [
        ("exp", 60, True),
        ("exp", 0, False),
        ("exp", -2, False),
        ("exp", -3600, False),
        ("nbf", LEEWAY / 2, True),
        ("nbf", LEEWAY + 30, False),
        ("iat", LEEWAY / 2, True),
        ("iat", LEEWAY + 30, False),
    ],
)
def test_times_are_honoured(claim: str, seconds: float, accepted: bool) -> None:
    token = signed({"sub": "alice", claim: int(time.time() + seconds)})
    assert (asked(JWTAuth(SECRET), token) is not None) is accepted


@pytest.mark.parametrize("exp", [None, "soon", [], {}, "", "inf"])
def test_a_time_that_is_none_is_refused(exp: object) -> None:
    assert asked(JWTAuth(SECRET), signed({"sub": "alice", "exp": exp})) is None


@pytest.mark.parametrize("literal", ["1e999", "NaN", "-1", "-" + "9" * 300])
def test_an_impossible_exp_is_refused(literal: str) -> None:
    payload = b'{"sub": "alice", "exp": %s}' % literal.encode()
    assert asked(JWTAuth(SECRET), jwt.api_jws.encode(payload, SECRET, "HS256")) is None


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "", "HS384", "RS256", None, ["HS256"], 1])
def test_a_token_cannot_choose_its_algorithm(alg: object) -> None:
    for signature in ("", signed({"sub": "alice"}).rpartition(".")[2]):
        token = f"{segment({'alg': alg, 'typ': 'JWT'})}.{segment({'sub': 'alice'})}.{signature}"
        assert asked(JWTAuth(SECRET), token) is None


def test_another_hmac_than_the_configured_is_refused() -> None:
    long = SECRET * 2
    assert asked(JWTAuth(long, "HS512"), signed({"sub": "alice"}, long, "HS512")) is not None
    assert asked(JWTAuth(long, "HS512"), signed({"sub": "alice"}, long, "HS256")) is None
    assert asked(JWTAuth(long, "HS256"), signed({"sub": "alice"}, long, "HS512")) is None


def test_another_secret_is_refused() -> None:
    assert asked(JWTAuth(SECRET), signed({"sub": "alice"}, SECRET[::-1])) is None


@pytest.mark.parametrize("header", [{"crit": ["exp"], "exp": 1}, {"b64": False, "crit": ["b64"]}, {"kid": "../../key"}])
def test_header_extensions_open_nothing(header: dict[str, Any]) -> None:
    forged = f"{segment({'alg': 'HS256', **header})}.{segment({'sub': 'alice'})}.{'A' * 43}"
    assert asked(JWTAuth(SECRET), forged) is None


@pytest.mark.parametrize(
    ("expected", "aud", "accepted"),
    [
        (None, None, True),
        (None, "me", False),
        (None, ["me"], False),
        ("me", None, False),
        ("me", "me", True),
        ("me", ["other", "me"], True),
        ("me", "other", False),
        ("me", "", False),
        ("me", [], False),
        ("me", "mean", False),
        ("me", {"me": 1}, False),
        ("me", 7, False),
        (["me", "too"], "too", True),
        (["me", "too"], "other", False),
    ],
)
def test_a_token_for_an_audience_is_for_that_audience_alone(expected: Any, aud: object, accepted: bool) -> None:
    token = signed({"sub": "alice"} if aud is None else {"sub": "alice", "aud": aud})
    assert (asked(JWTAuth(SECRET, audience=expected), token) is not None) is accepted


@pytest.mark.parametrize(
    ("expected", "iss", "accepted"),
    [
        (None, "anybody", True),
        ("https://id.example", "https://id.example", True),
        ("https://id.example", "https://id.example/", False),
        ("https://id.example", None, False),
        ("https://id.example", "id", False),
        (["a", "b"], "b", True),
        (["a", "b"], "c", False),
    ],
)
def test_the_issuer_is_checked_when_it_is_given(expected: Any, iss: str | None, accepted: bool) -> None:
    token = signed({"sub": "alice"} if iss is None else {"sub": "alice", "iss": iss})
    assert (asked(JWTAuth(SECRET, issuer=expected), token) is not None) is accepted


# Public keys.


@pytest.mark.parametrize("algorithm", KEYS)
def test_a_public_key_verifies(algorithm: str) -> None:
    key = KEYS[algorithm]
    provider = JWTAuth(public_pem(key), algorithm)
    context = asked(provider, signed({"sub": "alice"}, key, algorithm))
    assert context is not None and context.user_id == "alice"
    assert asked(JWTAuth(public_pem(key).encode(), algorithm), signed({"sub": "alice"}, key, algorithm)) is not None


@pytest.mark.parametrize("algorithm", KEYS)
def test_a_public_key_is_no_shared_secret(algorithm: str) -> None:
    pem = public_pem(KEYS[algorithm])
    content = f"{segment({'alg': 'HS256'})}.{segment({'sub': 'alice'})}".encode()
    signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(content, pem.encode())
    forged = f"{content.decode()}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
    assert asked(JWTAuth(pem, algorithm), forged) is None
    with pytest.raises(ConfigurationError, match="asymmetric key"):
        JWTAuth(pem, "HS256")


@pytest.mark.parametrize("algorithm", [*KEYS, "HS256"])
def test_a_private_key_is_refused(algorithm: str) -> None:
    with pytest.raises(ConfigurationError, match="private key"):
        JWTAuth(private_pem(KEYS.get(algorithm, RSA)), algorithm)


@pytest.mark.parametrize(
    ("secret", "algorithm"),
    [
        (public_pem(P256), "RS256"),
        (public_pem(RSA), "ES256"),
        (public_pem(RSA), "EdDSA"),
        (public_pem(ec.generate_private_key(ec.SECP384R1())), "ES256"),
        (SECRET, "RS256"),
        (SECRET, "EdDSA"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "ES256"),
    ],
)
def test_a_key_of_another_kind_is_refused(secret: str, algorithm: str) -> None:
    with pytest.raises(ConfigurationError, match=f"not a key for {algorithm}"):
        JWTAuth(secret, algorithm)


# Keys of every form, and algorithms by their type.


def certificate(key: Key) -> bytes:
    """Of itself, and expired long ago: what it says of its dates is not judged."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "issuer")])
    day = datetime(2001, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, day, day + timedelta(days=1))
    hashed = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, hashed).public_bytes(Encoding.PEM)


FORMS: dict[str, Callable[[Key], Any]] = {
    "PEM": public_pem,
    "PEM in bytes": lambda key: public_pem(key).encode(),
    "certificate": certificate,
    "JWK": jwk_of,
    "JWK as text": lambda key: json.dumps(jwk_of(key)),
    "JWK set": lambda key: {"keys": [{"kty": "unknown"}, jwk_of(key, "a")]},
    "several": lambda key: [public_pem(ec.generate_private_key(ec.SECP256R1())), jwk_of(key)],
    "PEM file of two": lambda key: public_pem(ec.generate_private_key(ec.SECP256R1())) + "\n" + public_pem(key),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("algorithm", KEYS)
def test_a_public_key_of_any_form_verifies_the_algorithms_of_its_type(form: str, algorithm: str) -> None:
    key = KEYS[algorithm]
    given = FORMS[form](key)
    assert asked(JWTAuth(given), signed({"sub": "alice"}, key, algorithm)) is not None
    chosen = JWTAuth(jwk_of(key), [algorithm, "ES384"])
    assert asked(chosen, signed({"sub": "alice"}, key, algorithm)) is not None
    others = set(KEYS) - {algorithm}
    stranger = rsa.generate_private_key(65537, 2048) if algorithm == "RS256" else None
    if stranger is not None:
        assert asked(JWTAuth(given), signed({"sub": "eve"}, stranger, algorithm)) is None
    for other in others:
        if KEYS[other] is not key:
            assert asked(JWTAuth(jwk_of(key)), signed({"sub": "eve"}, KEYS[other], other)) is None


def test_no_form_of_a_public_key_is_a_shared_secret() -> None:
    content = f"{segment({'alg': 'HS256'})}.{segment({'sub': 'eve'})}".encode()
    for form in FORMS.values():
        given = form(P256)
        text = given if isinstance(given, bytes) else given.encode() if isinstance(given, str) else b"{}"
        signature = base64.urlsafe_b64encode(hmac.digest(text, content, "sha256")).rstrip(b"=")
        assert asked(JWTAuth(given), (content + b"." + signature).decode()) is None
        with pytest.raises(ConfigurationError):
            JWTAuth(given, "HS256")


def test_several_secrets_are_rotated_and_several_algorithms_taken() -> None:
    provider = JWTAuth([SECRET * 2, SECRET[::-1] * 2], ["HS256", "HS512"])
    for secret in (SECRET * 2, SECRET[::-1] * 2):
        for algorithm in ("HS256", "HS512"):
            assert asked(provider, signed({"sub": "alice"}, secret, algorithm)) is not None
        assert asked(provider, signed({"sub": "alice"}, secret, "HS384")) is None
    assert asked(provider, signed({"sub": "alice"}, "another secret of 32 bytes at least")) is None


def test_a_shared_secret_as_a_jwk_has_the_algorithm_that_it_says() -> None:
    encoded = base64.urlsafe_b64encode(SECRET.encode() * 2).decode().rstrip("=")
    provider = JWTAuth({"kty": "oct", "k": encoded, "alg": "HS512"})
    assert asked(provider, signed({"sub": "alice"}, SECRET * 2, "HS512")) is not None
    assert asked(provider, signed({"sub": "alice"}, SECRET * 2, "HS256")) is None


def test_a_named_key_verifies_tokens_that_ask_for_it() -> None:
    provider = JWTAuth({"keys": [jwk_of(P256, "a"), jwk_of(RSA, "b")]})
    assert asked(provider, signed({"sub": "alice"}, P256, "ES256", kid="a")) is not None
    assert asked(provider, signed({"sub": "alice"}, P256, "ES256", kid="b")) is None
    assert asked(provider, signed({"sub": "alice"}, P256, "ES256", kid="c")) is None
    assert asked(provider, signed({"sub": "alice"}, RSA, "RS256")) is not None


@pytest.mark.parametrize(
    ("secret", "named"),
    [
        ({}, "not a key"),
        ({"kty": "EC"}, "not a key"),
        ({"keys": []}, "empty"),
        ({"keys": {}}, "no JWK set"),
        ({"keys": [None, 7]}, "not a JWK"),
        ([], "not empty"),
        ([{}], "not a key"),
        (json.loads(jwt.algorithms.ECAlgorithm.to_jwk(P256)), "private"),
        (jwk_of(P256, use="enc"), "not for signatures"),
        (jwk_of(P256, alg="ECDH-ES"), "not a key"),
        ({"kty": "oct", "k": "AAAA"}, "weak"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "not a key"),
    ],
)
def test_what_is_no_key_for_tokens_is_refused(secret: Any, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        JWTAuth(secret)


def test_the_leeway_is_for_the_issuers_clock_alone() -> None:
    provider = JWTAuth(SECRET, leeway=120)
    assert asked(provider, signed({"sub": "alice", "iat": int(time.time()) + 100})) is not None
    assert asked(provider, signed({"sub": "alice", "exp": int(time.time()) - 2})) is None
    assert asked(JWTAuth(SECRET, leeway=0), signed({"sub": "alice", "iat": int(time.time()) + 100})) is None


# What makes no verifier.


@pytest.mark.parametrize(("algorithm", "least"), [("HS256", 32), ("HS384", 48), ("HS512", 64)])
def test_a_secret_is_at_least_as_long_as_the_hash(algorithm: str, least: int) -> None:
    assert JWTAuth("s" * least, algorithm)
    with pytest.raises(ConfigurationError, match=rf"weak.*{least} bytes"):
        JWTAuth("s" * (least - 1), algorithm)


def test_bytes_count_and_not_characters() -> None:
    assert JWTAuth("ü" * 16)


def test_a_short_rsa_key_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"weak.*1024 bits"):
        JWTAuth(public_pem(rsa.generate_private_key(65537, 1024)), "RS256")


@pytest.mark.parametrize("algorithm", ["none", "None", "", "HS1", "hs256", "ES521", 5, [], ["HS256", "none"]])
def test_an_unknown_algorithm_is_refused(algorithm: Any) -> None:
    with pytest.raises(ConfigurationError, match="HS256, "):
        JWTAuth(SECRET, algorithm)


@pytest.mark.parametrize("secret", ["", "   ", None, b"", 7])
def test_an_empty_secret_is_refused(secret: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"secret=\.\.\."):
        JWTAuth(secret)


@pytest.mark.parametrize("argument", ["audience", "issuer"])
@pytest.mark.parametrize("value", ["", [], [""]])
def test_an_empty_audience_or_issuer_is_refused(argument: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=argument):
        JWTAuth(SECRET, **{argument: value})


def test_the_secret_is_not_shown() -> None:
    assert SECRET not in repr(JWTAuth(SECRET))


# Hostile input.


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "a.b.c",
        "....",
        "A" * (MAX_TOKEN + 1),
        f"{'A' * 6_000_000}.A.A",
        "\ud800.a.b",
        "é.é.é",
        "\x00.\x00.\x00",
        f"{base64.urlsafe_b64encode(b'[' * 9000).decode()}.e30.AA",
        f"{segment({'alg': 'HS256'})}.{base64.urlsafe_b64encode(b'[' * 6000).decode()}.AA",
        f"{segment([])}.{segment({})}.AA",
        f"{segment('HS256')}.{segment({})}.AA",
    ],
)
def test_a_hostile_token_is_refused(token: str) -> None:
    assert asked(JWTAuth(SECRET), token) is None
    assert asked(JWTAuth(public_pem(P256), "ES256"), token) is None


def test_a_token_beyond_any_sensible_size_is_refused_although_signed() -> None:
    assert asked(JWTAuth(SECRET), signed({"sub": "alice", "more": "x" * MAX_TOKEN})) is None


@pytest.mark.parametrize("payload", [b"[" * 6000, b'"alice"', b"[]", b"", b"\xff", b'{"sub": ' + b"9" * 5000 + b"}"])
def test_a_signed_payload_that_is_no_set_of_claims_is_refused(payload: bytes) -> None:
    assert asked(JWTAuth(SECRET), jwt.api_jws.encode(payload, SECRET, "HS256")) is None


@given(at=st.integers(0, 10_000), bit=st.integers(0, 6))
def test_a_flipped_bit_anywhere_in_the_token_denies(at: int, bit: int) -> None:
    token = signed({"sub": "alice", "exp": 99999999999})
    at %= len(token)
    flipped = token[:at] + chr(ord(token[at]) ^ (1 << bit)) + token[at + 1 :]
    # White space around the token is the header's, not the token's.
    if flipped.strip() != flipped:
        return
    assert asked(JWTAuth(SECRET), flipped) is None


# The extra.


def test_without_pyjwt_the_constructor_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jwt", None)
    monkeypatch.delitem(sys.modules, "definable.agent.auth.token_verifier")
    with pytest.raises(MissingExtra, match=r"pip install 'definable\[jwt\]'"):
        JWTAuth(SECRET)


def test_without_cryptography_a_public_key_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> None:
        raise NotImplementedError(name)

    monkeypatch.setattr(jwt, "get_algorithm_by_name", unknown)
    with pytest.raises(MissingExtra, match=r"cryptography: pip install 'definable\[jwt\]'"):
        JWTAuth(public_pem(P256), "ES256")


def test_pyjwt_is_loaded_when_the_provider_is_constructed() -> None:
    code = (
        "import sys; from definable.agent.auth import APIKeyAuth, JWTAuth, GitHubSignature;"
        f"assert 'jwt' not in sys.modules; JWTAuth({SECRET!r}); assert 'jwt' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
