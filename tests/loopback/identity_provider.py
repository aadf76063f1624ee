"""A loopback OpenID provider: signs tokens, publishes its keys, rotates them, and can be away or answer wrongly."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import jwt
from anyio.abc import SocketAttribute, SocketStream
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

SigningKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

DISCOVERY, KEYS = "/.well-known/openid-configuration", "/keys"

ALGORITHMS: dict[type, str] = {rsa.RSAPrivateKey: "RS256", ec.EllipticCurvePrivateKey: "ES256"}


def algorithm_of(key: SigningKey) -> str:
    return next((name for kind, name in ALGORITHMS.items() if isinstance(key, kind)), "EdDSA")


def jwk_of(key: SigningKey, kid: str | None = None, **members: Any) -> dict[str, Any]:
    """The public key as a JWK."""
    algorithm: Any = jwt.get_algorithm_by_name(algorithm_of(key))
    named = {} if kid is None else {"kid": kid}
    return algorithm.to_jwk(key.public_key(), as_dict=True) | named | members


class IdentityProvider:
    """Speaks HTTP/1.1 on a free port, one request a connection; the fetches are counted by path."""

    def __init__(self) -> None:
        self.url = ""
        self.key: SigningKey = ec.generate_private_key(ec.SECP256R1())
        self.kid = "1"
        self.published: list[dict[str, Any]] = [jwk_of(self.key, self.kid)]
        self.fetches: list[str] = []
        self.is_away = False
        self.answer: Callable[[str], bytes | None] = lambda path: None
        """What is sent in place of the answer to a path, as bytes of the wire; None sends that."""
        self.hold = anyio.Event()
        """No answer is sent before it is set."""
        self.hold.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[IdentityProvider]:
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            self.url = f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
            async with anyio.create_task_group() as group:
                group.start_soon(listener.serve, self._connection)
                yield self
                group.cancel_scope.cancel()

    def rotate(self, *, keep: bool = False, kid: str | None = "next") -> None:
        """Sign with a new key from now on; the former one is not published any more unless it is kept."""
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.kid = str(int(self.kid) + 1) if kid == "next" else kid or ""
        self.published = [*(self.published if keep else ()), jwk_of(self.key, self.kid or None)]

    def token(self, key: SigningKey | None = None, **claims: Any) -> str:
        """A token of now; `kid=None` leaves out the key's name."""
        kid = claims.pop("kid", self.kid)
        key = key or self.key
        claims = {"sub": "ann", "iss": self.url, "exp": int(time.time()) + 3600} | claims
        return jwt.encode(claims, key, algorithm_of(key), headers={"kid": kid} if kid else None)

    def bearer(self, **claims: Any) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token(**claims)}"}

    def document(self, path: str) -> object:
        if path == DISCOVERY:
            return {"issuer": self.url, "jwks_uri": f"{self.url}{KEYS}"}
        return {"keys": self.published} if path == KEYS else None

    async def _connection(self, stream: SocketStream) -> None:
        async with stream:
            if self.is_away:
                return
            try:
                head = b""
                while b"\r\n\r\n" not in head:
                    head += await stream.receive()
                path = head.split(b" ")[1].decode()
                self.fetches.append(path)
                await self.hold.wait()
                await stream.send(self.answer(path) or answer(self.document(path)))
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                pass


def answer(document: object, status: str = "200 OK", *headers: str) -> bytes:
    """An HTTP answer as bytes; 404 without a document."""
    body = json.dumps(document).encode()
    lines = [f"HTTP/1.1 {status if document is not None else '404 Not Found'}", "Content-Type: application/json"]
    lines += [f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
