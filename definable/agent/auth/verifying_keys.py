"""The keys that tokens are verified with: shared secrets, PEM, X.509 certificates, JWK and JWK sets. Needs PyJWT.

Each key has the algorithms of its own type (RFC 7518, 3.1; RFC 8037). A token's header chooses among those alone, so
that nobody can have a public key taken for a shared secret.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import jwt

from definable.errors import ConfigurationError, MissingExtra

SYMMETRIC = ("HS256", "HS384", "HS512")

ASYMMETRIC = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)

ALGORITHMS = SYMMETRIC + ASYMMETRIC
"""Of RFC 7518, 3.1 and RFC 8037; `none` is not among them."""

MAX_KEYS = 100
"""Keys of a set; a token that names no key may have all of them tried."""

CERTIFICATE = b"-----BEGIN CERTIFICATE-----"

PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.+?-----END \1-----", re.DOTALL)

UNFIT = (jwt.InvalidKeyError, ValueError, TypeError, KeyError, AttributeError, OverflowError)
"""What PyJWT 2.10 to 2.15 and cryptography raise for what is no key of an algorithm, or no key at all."""


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """One key, parsed, and what it may verify."""

    key: Any
    algorithms: frozenset[str]
    kid: str | None = None
    """The name by which tokens ask for it; None takes every token."""

    def fits(self, algorithm: object, kid: object) -> bool:
        """Whether a token of this algorithm may have been signed with it."""
        return algorithm in self.algorithms and (kid is None or self.kid is None or self.kid == kid)


def given_keys(secret: object, algorithms: Sequence[str] | None) -> tuple[VerifyingKey, ...]:
    """The keys that a user has given.

    Args:
        secret: A shared secret, PEM, an X.509 certificate, a JWK or a JWK set, as text, bytes or mapping; or several.
        algorithms: The only ones to accept; None for all of each key's type, and HS256 of a shared secret.

    Raises:
        ConfigurationError: One is no key, too weak, or private, or not of these algorithms.
        MissingExtra: cryptography is not installed.
    """
    is_several = isinstance(secret, Collection) and not isinstance(secret, str | bytes | Mapping)
    several: list[Any] = list(cast("Collection[Any]", secret)) if is_several else [secret]
    if not several:
        raise no_secret()
    return tuple(key for each in several for key in keys_of(each, algorithms))


def keys_of(secret: object, algorithms: Sequence[str] | None) -> Iterable[VerifyingKey]:
    """The keys in one of the given texts, or in a mapping."""
    if isinstance(secret, Mapping):
        return jwk_keys(cast("Mapping[str, Any]", secret), algorithms or ALGORITHMS)
    if not isinstance(secret, str | bytes) or not secret.strip():
        raise no_secret()
    text = secret.encode() if isinstance(secret, str) else secret
    if text.lstrip().lower().startswith((b"http://", b"https://")):
        raise ConfigurationError(
            "JWTAuth(secret=...): this is a URL, and everybody who knows it could sign tokens with it. Give the URL of "
            "a key set as jwks_url, or the issuer's public key in PEM"
        )
    if b"PRIVATE KEY-----" in text:
        raise private_key()
    if text.lstrip().startswith(b"{") and isinstance(document := parsed_json(text), dict):
        return jwk_keys(cast("dict[str, Any]", document), algorithms or ALGORITHMS)
    blocks = [found[0] for found in PEM.finditer(text)]
    default = ALGORITHMS if blocks else SYMMETRIC[:1]
    return [verifying_key(each, algorithms or default) for each in blocks or [text]]


def jwk_keys(document: Mapping[str, Any], algorithms: Sequence[str]) -> Sequence[VerifyingKey]:
    """The keys of a JWK, or of a JWK set (RFC 7517), whose keys of other uses and kinds are left out.

    Raises:
        ConfigurationError: There is none that could verify tokens.
    """
    if "keys" not in document:
        return [jwk_key(document, algorithms)]
    found, reason = usable_keys(document, algorithms)
    if not found:
        raise ConfigurationError(
            f"JWTAuth(secret=...): no key of this set can verify tokens: {reason or 'it is empty'}"
        )
    return found


def usable_keys(document: object, algorithms: Sequence[str]) -> tuple[Sequence[VerifyingKey], Exception | None]:
    """The keys of a JWK set that can verify tokens, and why another cannot."""
    keys: Any = cast("Mapping[str, Any]", document).get("keys") if isinstance(document, Mapping) else None
    found: list[VerifyingKey] = []
    reason: Exception | None = None if isinstance(keys, list) else ConfigurationError("it is no JWK set")
    for each in cast("list[Any]", keys)[:MAX_KEYS] if isinstance(keys, list) else []:
        try:
            found.append(jwk_key(each, algorithms))
        except ConfigurationError as error:
            reason = error
    return found, reason


def jwk_key(jwk: Mapping[str, Any], algorithms: Sequence[str]) -> VerifyingKey:
    """The key of a JWK.

    Raises:
        ConfigurationError: It is none that could verify tokens.
    """
    if not isinstance(jwk, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError("JWTAuth(secret=...): not a JWK")
    if "d" in jwk:
        raise private_key()
    operations = jwk.get("key_ops", ("verify",))
    if jwk.get("use", "sig") != "sig" or not isinstance(operations, Collection) or "verify" not in operations:
        raise ConfigurationError("JWTAuth(secret=...): this JWK is not for signatures (RFC 7517, 4.2 and 4.3)")
    own = jwk.get("alg")
    kid = jwk.get("kid")
    wanted = algorithms if own is None else [each for each in algorithms if each == own]
    return verifying_key(dict(jwk), wanted, kid if isinstance(kid, str) else None)


def verifying_key(material: bytes | dict[str, Any], algorithms: Sequence[str], kid: str | None = None) -> VerifyingKey:
    """A key, parsed, with those of the algorithms that are of its kind and for which it is strong enough.

    Raises:
        ConfigurationError: There is none of these.
        MissingExtra: cryptography is not installed.
    """
    fitting: dict[str, Any] = {}
    weakness: str | None = None
    reason: Exception | None = None
    for algorithm in algorithms:
        try:
            implementation: Any = jwt.get_algorithm_by_name(algorithm)
            key = implementation.prepare_key(
                implementation.from_jwk(material) if isinstance(material, dict) else public_key_of(material)
            )
        except (NotImplementedError, ImportError) as error:
            raise MissingExtra(f"JWTAuth({algorithm!r}) needs cryptography: pip install 'definable[jwt]'") from error
        except UNFIT as error:
            reason = error
            continue
        if (found := implementation.check_key_length(key)) is None:
            fitting[algorithm] = key
        else:
            weakness = found
    if fitting:
        return VerifyingKey(next(iter(fitting.values())), frozenset(fitting), kid)
    if weakness is not None:
        raise ConfigurationError(f"JWTAuth(secret=...) is too weak: {weakness}")
    raise ConfigurationError(f"JWTAuth(secret=...): not a key for {' or '.join(algorithms) or 'tokens'}: {reason}")


def public_key_of(material: bytes) -> Any:
    """What PyJWT reads: a certificate's key in place of the certificate, whose own dates and chain are not judged."""
    if not material.startswith(CERTIFICATE):
        return material
    from cryptography.x509 import load_pem_x509_certificate  # a part of the extra

    return load_pem_x509_certificate(material).public_key()


def parsed_json(text: bytes) -> object:
    """A JSON document; None where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def no_secret() -> ConfigurationError:
    """What is said of an empty secret."""
    return ConfigurationError("JWTAuth(secret=...): a secret, a public key in PEM, or a JWK, not empty")


def private_key() -> ConfigurationError:
    """What is said of a private key."""
    return ConfigurationError("JWTAuth(secret=...): this is a private key; verifying takes the public key alone")
