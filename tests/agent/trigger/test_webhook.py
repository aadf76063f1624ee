"""A webhook's arguments."""

from __future__ import annotations

from typing import Any

import pytest

from definable.agent.auth import APIKeyAuth
from definable.agent.trigger import TriggerEvent, Webhook
from definable.errors import ConfigurationError


def delivery_id(event: TriggerEvent) -> str | None:
    return event.body["id"]


def test_has_its_defaults() -> None:
    webhook = Webhook("/github")
    assert (webhook.path, webhook.method, webhook.source) == ("/github", "POST", "POST /github")
    assert (webhook.auth, webhook.respond, webhook.dedupe, webhook.max_body) == (None, "wait", None, 1024 * 1024)
    assert (webhook.timeout, webhook.max_concurrency, webhook.retries) == (None, None, 0)


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("github", "/github"),
        ("/github/{repo}", "/github/{repo}"),
        ("a/{b}-{c}.json", "/a/{b}-{c}.json"),
        ("/", "/"),
        ("/with/slash/", "/with/slash/"),
    ],
)
def test_a_missing_slash_is_added_and_parameters_are_welcome(given: str, path: str) -> None:
    assert Webhook(given).path == path


@pytest.mark.parametrize(
    "path",
    ["/a b", "/a?b", "/a#b", "//a", "/a//b", "/a/../b", "/a/.", "/{a", "/a}", "/{}", "/{1}", "/{a}/{a}", "/a\\b", None],
)
def test_refuses_a_path_and_names_it(path: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"Webhook\("):
        Webhook(path)


def test_any_case_of_a_method_will_do() -> None:
    assert Webhook("/x", method="put").source == "PUT /x"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"method": "FETCH"}, "method='FETCH'"),
        ({"method": None}, "method=None"),
        ({"respond": "later"}, "respond='later'"),
        ({"auth": True}, "auth=True"),
        ({"auth": "key"}, "auth='key'"),
        ({"dedupe": 5}, "dedupe=5"),
        ({"dedupe": ""}, "dedupe=''"),
        ({"coalesce": "X-Id", "respond": "accept"}, "coalesce='X-Id'"),
        ({"coalesce": ("", 1), "respond": "accept"}, "coalesce="),
        ({"coalesce": ("X-Id", 0), "respond": "accept"}, "coalesce="),
        ({"coalesce": ("X-Id", float("inf")), "respond": "accept"}, "coalesce="),
        ({"coalesce": ("X-Id", float("nan")), "respond": "accept"}, "coalesce="),
        ({"coalesce": ("X-Id",), "respond": "accept"}, "coalesce="),
        ({"coalesce": ("X-Id", 1)}, "respond='accept'"),
        ({"max_body": -1}, "max_body=-1"),
        ({"body": "Ordr"}, "body=.Ordr.*not defined"),
        ({"body": delivery_id}, "body=<function delivery_id.*not a function"),
        ({"timeout": 0}, "timeout=0"),
    ],
)
def test_refuses_an_argument_and_names_it(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        Webhook("/x", **arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"auth": False},
        {"auth": APIKeyAuth("k")},
        {"dedupe": "X-GitHub-Delivery"},
        {"dedupe": delivery_id},
        {"max_body": 0},
        {"respond": "accept", "timeout": 1.5, "max_concurrency": 1, "retries": 2},
    ],
)
def test_takes_its_options(arguments: dict[str, Any]) -> None:
    webhook = Webhook("/x", **arguments)
    assert {name: getattr(webhook, name) for name in arguments} == arguments
