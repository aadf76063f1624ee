"""What the signature schemes share: secrets, an HMAC-SHA256 over the raw body, one comparison in constant time."""

from __future__ import annotations

import hashlib
import hmac
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
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
