"""What an answer of the Bot API means."""

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
)
from definable.agent.interface.telegram.client import TelegramConflict, TelegramRefusal, result_of


def failure(code: int, **fields: Any) -> InterfaceError:
    body = {"ok": False, "error_code": code, "description": "Bad: thing"} | fields
    with pytest.raises(InterfaceError) as caught:
        result_of("sendMessage", code, json.dumps(body).encode())
    return caught.value


def test_a_result_is_given() -> None:
    assert result_of("getMe", 200, b'{"ok": true, "result": {"id": 1}}') == {"id": 1}


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (400, InterfaceMessageError),
        (401, InterfaceAuthenticationError),
        (403, InterfaceMessageError),
        (404, InterfaceAuthenticationError),
        (409, TelegramConflict),
        (429, InterfaceRateLimitError),
        (500, InterfaceConnectionError),
        (502, InterfaceConnectionError),
    ],
)
def test_a_code_is_the_kind_of_failure_that_it_is(code: int, kind: type[InterfaceError]) -> None:
    error = failure(code)
    assert (type(error) is kind or isinstance(error, kind), error.status) == (True, code)
    assert "sendMessage" in str(error) and "Bad: thing" in str(error)


def test_parameters_are_read() -> None:
    limited, moved = failure(429, parameters={"retry_after": 7}), failure(400, parameters={"migrate_to_chat_id": -1007})
    assert isinstance(limited, InterfaceRateLimitError) and limited.retry_after == 7
    assert isinstance(moved, TelegramRefusal) and moved.moved_to == -1007


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"ok": true}', b'{"ok": false, "parameters": 7}'])
def test_what_is_no_answer_is_a_broken_connection(body: bytes) -> None:
    with pytest.raises(InterfaceConnectionError):
        result_of("getMe", 502, body)
