"""What answers of the Web API mean, and how fast it is called: pure."""

from __future__ import annotations

import json
from typing import Any

import pytest

from definable.agent.interface import (
    InterfaceAuthenticationError,
    InterfaceConnectionError,
    InterfaceError,
    InterfaceMessageError,
    InterfaceRateLimitError,
    SlackConfig,
)
from definable.agent.interface.errors import RequestNotSent
from definable.agent.interface.slack.client import Limits, SlackRefusal, result_of
from definable.errors import ConfigurationError


def failure(answer: Any, status: int = 200, **headers: str) -> InterfaceError:
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    with pytest.raises(InterfaceError) as caught:
        result_of("chat.postMessage", status, headers, body)
    return caught.value


def refused(error: str, **more: Any) -> InterfaceError:
    return failure({"ok": False, "error": error, **more})


def test_an_answer_is_given() -> None:
    assert result_of("auth.test", 200, {}, b'{"ok": true, "user_id": "U1"}')["user_id"] == "U1"


@pytest.mark.parametrize(
    ("code", "kind", "status"),
    [
        ("invalid_auth", InterfaceAuthenticationError, 401),
        ("token_revoked", InterfaceAuthenticationError, 401),
        ("account_inactive", InterfaceAuthenticationError, 401),
        ("not_allowed_token_type", InterfaceAuthenticationError, 401),
        ("ratelimited", InterfaceRateLimitError, 429),
        ("service_unavailable", RequestNotSent, 503),
        ("internal_error", InterfaceConnectionError, 500),
        ("fatal_error", InterfaceConnectionError, 500),
        ("not_in_channel", SlackRefusal, 403),
        ("is_archived", SlackRefusal, 403),
        ("missing_scope", SlackRefusal, 403),
        ("invalid_blocks", InterfaceMessageError, 400),
        ("a_code_of_the_future", SlackRefusal, 400),
    ],
)
def test_a_code_is_the_kind_of_failure_that_it_is(code: str, kind: type[InterfaceError], status: int) -> None:
    error = refused(code)
    assert (type(error) is kind or isinstance(error, kind), error.status) == (True, status)
    assert "chat.postMessage" in str(error) and code in str(error)


def test_statuses_count_before_the_body() -> None:
    limited = failure(b"", 429, **{"retry-after": "7"})
    assert isinstance(limited, InterfaceRateLimitError) and limited.retry_after == 7
    assert isinstance(failure(b"<html>", 503), RequestNotSent)
    assert type(failure(b"<html>", 502)) is InterfaceConnectionError


def test_what_is_wrong_is_said() -> None:
    assert "the scope chat:write is needed" in str(refused("missing_scope", needed="chat:write", provided="x"))
    assert "must be a text" in str(refused("invalid_blocks", response_metadata={"messages": ["must be a text"]}))
    refused("invalid_blocks", response_metadata=7)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b"[" * 100_000])
def test_what_is_no_answer_is_a_broken_connection(body: bytes) -> None:
    assert isinstance(failure(body), InterfaceConnectionError)


@pytest.mark.parametrize(
    ("key", "calls", "seconds"),
    [(("chat.update", ""), 50, 60.0), (("chat.postMessage", "C1"), 10, 5.0), (("users.info", ""), 100, 60.0)],
)
def test_no_window_has_more_calls_than_slack_takes(key: tuple[str, str], calls: int, seconds: float) -> None:
    limits, sent = Limits(), list[float]()
    for _ in range(3 * calls):
        sent.append(100.0 + limits.take(key, 100.0))
    assert sent == sorted(sent)
    assert max(sum(at <= each < at + seconds for each in sent) for at in sent) <= calls


def test_channels_do_not_hold_each_other_up_and_a_refusal_is_waited_for() -> None:
    limits = Limits()
    for _ in range(9):
        limits.take(("chat.postMessage", "C1"), 0.0)
    assert limits.wait(("chat.postMessage", "C1"), 0.0) > 1 and limits.wait(("chat.postMessage", "C2"), 0.0) == 0
    limits.refused(("chat.postMessage", "C2"), 30.0, 0.0)
    assert limits.wait(("chat.postMessage", "C2"), 10.0) == 20.0 and limits.wait(("chat.postMessage", "C2"), 30.0) == 0
    assert limits.wait(("auth.test", ""), 0.0) == 0


BOT, APP = "xoxb-12345678-abc", "xapp-1-A1-2-abc"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"bot_token": None}, "is its environment variable set"),
        ({"bot_token": "xoxp-12345678"}, "bot_token: 13 characters"),
        ({"app_token": None}, "needs app_token"),
        ({"app_token": BOT}, "app_token: 17 characters"),
        ({"mode": "rtm"}, "'socket' or 'events'"),
        ({"mode": "events"}, "needs signing_secret"),
        ({"max_message_length": 4001}, "at most 4000"),
        ({"connect_timeout": 0}, "greater than 0"),
        ({"base_url": "slack.com"}, "an http or https URL"),
        ({"allowed_channel_ids": {"general"}}, "'general' is no id"),
        ({"allowed_user_ids": {"C1"}}, "'C1' is no id"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_a_wrong_setting_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        SlackConfig(**{"bot_token": BOT, "app_token": APP} | settings)
    assert BOT not in str(caught.value)


def test_secrets_are_not_shown() -> None:
    shown = repr(SlackConfig(bot_token=BOT, app_token=APP, signing_secret="s3cr3t-of-slack"))
    assert BOT not in shown and APP not in shown and "s3cr3t" not in shown
