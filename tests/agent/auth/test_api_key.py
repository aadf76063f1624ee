"""API keys."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from definable.agent.auth import APIKey, APIKeyAuth, AuthProvider, AuthRequest
from definable.agent.trigger import Headers
from definable.errors import ConfigurationError


def asked(auth: APIKeyAuth, headers: Mapping[str, str]) -> str | None:
    context = auth.authenticate(AuthRequest(headers=headers))
    return None if context is None else context.user_id


def user_id(key: str) -> str:
    return "apikey_" + hashlib.sha256(key.encode()).hexdigest()[:12]


def wire(name: str, value: str) -> Headers:
    return Headers([(name.encode(), value.encode())])


def test_is_a_provider() -> None:
    assert isinstance(APIKeyAuth("k"), AuthProvider)


@pytest.mark.parametrize(
    "headers",
    [
        {"X-API-Key": "secret"},
        {"x-api-key": "secret"},
        {"X-Api-Key": "secret"},
        {"Authorization": "secret"},
        {"Authorization": "Bearer secret"},
        {"authorization": "bearer   secret "},
    ],
)
def test_a_key_is_found_in_its_header_or_in_authorization(headers: dict[str, str]) -> None:
    for given in (headers, Headers((name.encode(), value.encode()) for name, value in headers.items())):
        assert asked(APIKeyAuth("secret"), given) == user_id("secret")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": ""},
        {"X-API-Key": "wrong"},
        {"X-API-Key": "secre"},
        {"X-API-Key": "Bearer secret"},
        {"X-API-Key": "wrong", "Authorization": "secret"},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic secret"},
        {"X-API-Key": "sécret"},
        {"X-API-Key": "秘密"},
        {"X-API-Key": "\udcff"},
    ],
)
def test_anything_else_is_nobody(headers: dict[str, str]) -> None:
    assert asked(APIKeyAuth("secret"), headers) is None


def test_a_key_that_latin_1_cannot_hold_is_not_a_question_mark() -> None:
    assert asked(APIKeyAuth("?"), {"X-API-Key": "秘"}) is None


@pytest.mark.parametrize("key", ["clé", "ключ", "🔑"])
def test_a_key_beyond_ascii_fits_as_it_comes_over_the_wire(key: str) -> None:
    assert asked(APIKeyAuth(key), wire("X-API-Key", key)) == user_id(key)


def test_several_keys_are_several_users() -> None:
    auth = APIKeyAuth({"one", "two"})
    assert asked(auth, {"X-API-Key": "one"}) == user_id("one")
    assert asked(auth, {"X-API-Key": "two"}) == user_id("two")
    assert asked(auth, {"X-API-Key": "onetwo"}) is None


def test_the_header_may_be_another() -> None:
    auth = APIKeyAuth("secret", header="X-Token")
    assert asked(auth, {"x-token": "secret"}) == user_id("secret")
    assert asked(auth, {"X-API-Key": "secret"}) is None


@pytest.mark.parametrize("header", ["Authorization", "authorization"])
@pytest.mark.parametrize("value", ["secret", "Bearer secret"])
def test_the_header_may_be_authorization_itself_with_or_without_bearer(header: str, value: str) -> None:
    assert asked(APIKeyAuth("secret", header=header), {"Authorization": value}) == user_id("secret")


def test_other_platforms_have_no_keys() -> None:
    assert APIKeyAuth("k").authenticate(AuthRequest(platform="telegram", headers={"X-API-Key": "k"})) is None


def test_a_caller_with_a_key_may_act_for_others() -> None:
    context = APIKeyAuth("k").authenticate(AuthRequest(headers={"X-API-Key": "k"}))
    assert context is not None and context.may_act_for_others
    assert context.metadata == {"auth_method": "api_key"}


NO_KEYS: list[Any] = ["", set(), {""}, {"a", ""}, None, {None}, {b"a"}]


@pytest.mark.parametrize("keys", NO_KEYS)
def test_there_must_be_a_key(keys: Any) -> None:
    with pytest.raises(ConfigurationError, match="at least one key"):
        APIKeyAuth(keys)


def test_keys_are_not_shown() -> None:
    assert "secret" not in repr(APIKeyAuth({"secret1", "secret2"}))


# Keys that end, and keys with a rate.


def let_in(key: APIKey) -> bool:
    return APIKeyAuth({"client": key}).authenticate(AuthRequest(headers={"X-API-Key": key.key})) is not None


@pytest.mark.parametrize(("seconds", "accepted"), [(3600, True), (-1, False), (-86400, False)])
def test_a_key_is_refused_from_when_on_it_expires(seconds: float, accepted: bool) -> None:
    end = datetime.now(UTC) + timedelta(seconds=seconds)
    assert let_in(APIKey("k", expires=end)) is accepted
    assert let_in(APIKey("k", expires=end.astimezone(timezone(timedelta(hours=5))))) is accepted
    assert let_in(APIKey("k", expires=end.timestamp())) is accepted
    assert let_in(APIKey("k"))


def test_the_log_says_which_key_has_expired_and_the_caller_is_not_told() -> None:
    provider = APIKeyAuth({"old": APIKey("secret-key", expires=1), "new": "k"})
    request = AuthRequest(headers={"X-API-Key": "secret-key"})
    assert provider.authenticate(request) is None
    assert "has expired" in provider.explain(request)
    assert "secret-key" not in provider.explain(request)


@pytest.mark.parametrize(
    "options",
    [
        *[{"expires": value} for value in ("2030-01-01", datetime(2030, 1, 1), True, [], math.nan)],
        *[{"rate_limit": value} for value in ("", "60", "0/minute", 60, "60/fortnight")],
    ],
    ids=repr,
)
def test_an_end_has_a_time_zone_and_a_rate_a_period(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        APIKey("k", **options)
