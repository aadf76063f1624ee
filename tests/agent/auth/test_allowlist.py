"""The listed users of messaging platforms."""

from typing import Any

import pytest

from definable.agent.auth import AllowlistAuth, AuthContext, AuthRequest
from definable.errors import ConfigurationError


def message(user_id: str | None = "7", platform: str = "telegram", chat_id: str | None = "-100") -> AuthRequest:
    return AuthRequest(platform=platform, user_id=user_id, username="alice", chat_id=chat_id)


def test_a_listed_user_is_accepted_with_platform_and_method() -> None:
    context = AllowlistAuth({"7"}).authenticate(message())
    assert context == AuthContext("telegram:7", {"platform": "telegram", "auth_method": "allowlist"})
    assert not context.may_act_for_others


@pytest.mark.parametrize("user_id", ["8", "77", "", " 7", None])
def test_another_user_is_refused(user_id: str | None) -> None:
    assert AllowlistAuth({"7"}).authenticate(message(user_id)) is None


def test_a_user_name_is_not_an_id() -> None:
    assert AllowlistAuth({"alice"}).authenticate(message()) is None


@pytest.mark.parametrize("platforms", [None, {"telegram", "discord"}])
def test_http_is_refused(platforms: set[str] | None) -> None:
    provider = AllowlistAuth({"7"}, platforms=platforms)
    assert provider.authenticate(message(platform="http")) is None
    assert provider.authenticate(AuthRequest(headers={"X-User-Id": "7"}, metadata={"user_id": "7"})) is None


def test_other_platforms_are_refused_when_some_are_named() -> None:
    provider = AllowlistAuth({"7"}, platforms={"telegram"})
    assert provider.authenticate(message()) is not None
    assert provider.authenticate(message(platform="discord")) is None
    assert AllowlistAuth({"7"}).authenticate(message(platform="discord")) is not None


@pytest.mark.parametrize(("chat_id", "accepted"), [("-100", True), ("-200", False), (None, False)])
def test_other_chats_are_refused_when_some_are_named(chat_id: str | None, accepted: bool) -> None:
    provider = AllowlistAuth({"7"}, chat_ids={"-100"})
    assert (provider.authenticate(message(chat_id=chat_id)) is not None) is accepted


def test_a_listed_chat_does_not_let_in_users_who_are_not_listed() -> None:
    assert AllowlistAuth({"7"}, chat_ids={"-100"}).authenticate(message("8")) is None


@pytest.mark.parametrize("users", ["7", 7, [7], ("7", 8), iter(["7"])])
def test_ids_may_be_one_or_several_text_or_number(users: Any) -> None:
    provider = AllowlistAuth(users, chat_ids=-100)
    assert provider.authenticate(message()) is not None


def test_one_id_is_not_taken_for_its_characters() -> None:
    assert AllowlistAuth("78").authenticate(message("7")) is None


def test_an_empty_list_lets_nobody_in() -> None:
    assert AllowlistAuth([]).authenticate(message()) is None
    assert AllowlistAuth({"7"}, chat_ids=[]).authenticate(message()) is None
    assert AllowlistAuth({"7"}, platforms=[]).authenticate(message()) is None


@pytest.mark.parametrize("ids", [[""], [" "], [None], [True], [1.5], [b"7"]])
def test_what_is_no_id_is_refused(ids: Any) -> None:
    with pytest.raises(ConfigurationError, match="user_ids"):
        AllowlistAuth(ids)


def test_http_cannot_be_among_the_platforms() -> None:
    with pytest.raises(ConfigurationError, match="http"):
        AllowlistAuth({"7"}, platforms={"telegram", "http"})
