"""The values of `cors`, `allowed_hosts` and `public`, and what they mean: pure."""

from __future__ import annotations

from typing import Any

import pytest

from definable.agent.runtime.http.auth import PublicPaths
from definable.agent.runtime.http.browsers import HostPolicy, OriginPolicy, checked_origin, is_loopback
from definable.agent.runtime.settings import ServeSettings
from definable.errors import ConfigurationError


@pytest.mark.parametrize(
    ("given", "origin"),
    [
        ("https://app.example", "https://app.example"),
        ("HTTPS://App.Example:443/", "https://app.example"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://[::1]:80", "http://[::1]"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("chrome-extension://abcdef", "chrome-extension://abcdef"),
        ("*", "*"),
    ],
)
def test_an_origin_is_written_as_browsers_write_it(given: str, origin: str) -> None:
    assert checked_origin(given) == origin
    assert given == "*" or OriginPolicy([given]).allows(origin.encode())


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("cors", [bad]) for bad in ("app.example", "null", "https://a/b", "https://*.example", "https://a:x", "", 1)),
        *(("allowed_hosts", [bad]) for bad in ("http://a.example", "a.example:80", "a*b", "*.*", "", None)),
        *(("public", [bad]) for bad in ("status", "", 1)),
        *((option, "/a.example") for option in ("cors", "allowed_hosts", "public")),
        *((option, None) for option in ("cors", "allowed_hosts", "public")),
    ],
)
def test_a_value_that_cannot_be_meant_is_named_at_once(option: str, value: Any) -> None:
    with pytest.raises(ConfigurationError) as raised:
        ServeSettings(**{option: value})
    assert option in str(raised.value)
    assert repr(value[0] if isinstance(value, list) else value) in str(raised.value)


def test_every_host_is_known_where_that_is_said() -> None:
    assert HostPolicy(["*"]).allows(b"anything.example:80")
    assert not HostPolicy().allows(b"anything.example")


@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3", "::1"])
def test_loopback_addresses(address: str) -> None:
    assert is_loopback(address)


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "10.0.0.1", "/run/agent.sock", ""])
def test_other_addresses(address: str) -> None:
    assert not is_loopback(address)


def test_a_long_path_is_matched_in_linear_time() -> None:
    paths = PublicPaths(["/*a*b*c*d*e"])
    assert "/" + "a" * 60_000 not in paths
    assert "/1a2b3c4d5e" in paths
