"""What the log says of callers who are not let in: why, at once and once, and then how many a minute."""

import hashlib
import hmac
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import anyio
import jwt
import pytest

from definable.agent.auth import (
    AllowlistAuth,
    APIKeyAuth,
    AuthProvider,
    AuthRequest,
    CompositeAuth,
    GitHubSignature,
    JWTAuth,
    SlackSignature,
)
from definable.agent.auth.base import MAX_CLIENTS, MAX_LINES, RefusalLog, why_refused
from definable.testing import VIRTUAL_BACKENDS, virtual_time

pytestmark = pytest.mark.anyio

SECRET = "s" * 32


@pytest.fixture(params=VIRTUAL_BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Iterator[object]:
    with virtual_time(request.param) as backend:
        yield backend


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    assert all(record.levelno >= logging.WARNING for record in caplog.records)
    return [record.getMessage() for record in caplog.records]


async def test_the_first_refusal_of_a_caller_is_said_at_once_and_the_others_a_minute_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = RefusalLog()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(log.run)
        for number in range(5_000):
            log.refused("POST '/run'", "192.0.2.1", lambda: "the API key is unknown")
            log.refused("POST '/run'", f"192.0.2.{2 + number % 2}", lambda: "no API key")
        await anyio.sleep(30)
        assert said(caplog) == [
            "refused POST '/run' from 192.0.2.1: the API key is unknown",
            "refused POST '/run' from 192.0.2.2: no API key",
            "refused POST '/run' from 192.0.2.3: no API key",
        ]
        caplog.clear()
        await anyio.sleep(31)
        assert said(caplog) == ["refused 9997 more since the last such line, most from 192.0.2.1 (4999)"]
        caplog.clear()
        log.refused("POST '/run'", "192.0.2.1", lambda: "the API key is unknown")  # it is known still
        await anyio.sleep(61)
        assert said(caplog) == ["refused 1 more since the last such line, most from 192.0.2.1 (1)"]
        caplog.clear()
        await anyio.sleep(600)
        log.refused("POST '/run'", "192.0.2.2", lambda: "no API key")  # it was quiet for long
        assert said(caplog) == ["refused POST '/run' from 192.0.2.2: no API key"]
        tasks.cancel_scope.cancel()


async def test_callers_without_number_fill_neither_log_nor_memory(caplog: pytest.LogCaptureFixture) -> None:
    log = RefusalLog()
    for number in range(20_000):
        log.refused("GET '/runs'", f"2001:db8::{number:x}", lambda: "no API key")
    assert len(said(caplog)) == MAX_LINES
    assert len(log) <= MAX_CLIENTS
    caplog.clear()
    log.summarise()
    assert said(caplog) == [f"refused {20_000 - MAX_LINES} more since the last such line"]


async def test_what_was_not_said_is_said_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    log = RefusalLog()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(log.run)
        await anyio.sleep(1)
        for _ in range(3):
            log.refused("POST '/run'", "192.0.2.1", lambda: "no API key")
        tasks.cancel_scope.cancel()
    assert said(caplog)[1:] == ["refused 2 more since the last such line, most from 192.0.2.1 (2)"]


async def test_a_provider_that_fails_is_said_with_its_traceback_once(caplog: pytest.LogCaptureFixture) -> None:
    log = RefusalLog()
    for _ in range(100):
        try:
            raise ZeroDivisionError("no database")
        except ZeroDivisionError:
            log.failed(APIKeyAuth("k"))
    (record,) = caplog.records
    assert record.exc_info is not None
    assert "no database" in caplog.text
    log.summarise()
    assert "refused 99 more" in said(caplog)[1]


def token(**claims: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {jwt.encode(claims, SECRET, 'HS256')}"}


def slack(timestamp: float) -> dict[str, str]:
    text = str(int(timestamp))
    digest = hmac.new(SECRET.encode(), f"v0:{text}:".encode(), hashlib.sha256).hexdigest()
    return {"X-Slack-Request-Timestamp": text, "X-Slack-Signature": f"v0={digest}"}


TOKENS = JWTAuth(SECRET, audience="api", issuer="idp")
GOOD = {"sub": "ann", "aud": "api", "iss": "idp"}


Credentials: TypeAlias = dict[str, Any] | Callable[[], dict[str, Any]]
"""Those with a time in them are made when they are used."""


class Plain:
    def authenticate(self, request: AuthRequest) -> None:
        return None


class Unable(Plain):
    def explain(self, request: AuthRequest) -> str:
        raise ZeroDivisionError


REASONS: list[tuple[AuthProvider, Credentials, str]] = [
    (APIKeyAuth("k"), {}, "APIKeyAuth: no API key in X-API-Key or Authorization"),
    (APIKeyAuth("k"), {"headers": {"X-API-Key": "hidden"}}, "APIKeyAuth: the API key is unknown"),
    (TOKENS, {}, "JWTAuth: no bearer token"),
    (TOKENS, {"headers": token(**GOOD, exp=1)}, "JWTAuth: the token has expired"),
    (TOKENS, {"headers": token(**GOOD, nbf=time.time() + 999)}, "JWTAuth: the token is not valid yet"),
    (TOKENS, {"headers": token(**GOOD | {"aud": "other"})}, "JWTAuth: the token is meant for another audience"),
    (TOKENS, {"headers": token(**GOOD | {"iss": "other"})}, "JWTAuth: the token is from another issuer"),
    (TOKENS, {"headers": token(aud="api", iss="idp")}, "JWTAuth: the token names no user"),
    (TOKENS, {"headers": token(sub="ann")}, "JWTAuth: the token lacks a claim"),
    (JWTAuth("o" * 32), {"headers": token(sub="ann")}, "JWTAuth: the token was signed with another key"),
    (JWTAuth("o" * 64, "HS512"), {"headers": token(sub="ann")}, "JWTAuth: the token is signed with another algorithm"),
    (TOKENS, {"headers": {"Authorization": "Bearer hidden"}}, "JWTAuth: it is no valid token"),
    (GitHubSignature(SECRET), {}, "GitHubSignature: the signature is missing or malformed"),
    (
        GitHubSignature(SECRET),
        {"headers": {"X-Hub-Signature-256": "sha256=hidden"}},
        "GitHubSignature: the signature fits no secret",
    ),
    (
        SlackSignature(SECRET),
        lambda: {"headers": slack(time.time() - 999)},
        "SlackSignature: the signed timestamp is off by more",
    ),
    (
        SlackSignature(SECRET),
        lambda: {"headers": slack(time.time()), "body": b"x"},
        "SlackSignature: the signature fits no",
    ),
    (AllowlistAuth({"7"}), {"platform": "telegram", "user_id": "8"}, "AllowlistAuth: the user is not listed"),
    (AllowlistAuth({"7"}), {}, "AllowlistAuth lets in nobody on http"),
    (APIKeyAuth("k"), {"platform": "telegram"}, "APIKeyAuth lets in nobody on telegram"),
    (CompositeAuth(APIKeyAuth("k"), TOKENS, AllowlistAuth("7")), {}, "CompositeAuth: APIKeyAuth: no API key in"),
    (Plain(), {}, "Plain: missing or wrong credentials"),
    (Unable(), {}, "Unable: refused; explain() raised ZeroDivisionError"),
]


@pytest.mark.parametrize(("provider", "credentials", "reason"), REASONS)
def test_a_refusal_has_a_reason_and_no_secret(provider: AuthProvider, credentials: Credentials, reason: str) -> None:
    given = credentials() if callable(credentials) else credentials
    why = why_refused(provider, AuthRequest(**given))
    assert why.startswith(reason)
    assert "hidden" not in why
    assert SECRET not in why
