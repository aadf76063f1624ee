"""The defaults and the bounds of the options of `serve`."""

from __future__ import annotations

from typing import Any

import pytest
import serve_options

from definable.agent.runtime.settings import ServeSettings
from definable.errors import ConfigurationError


def test_has_its_defaults() -> None:
    settings = ServeSettings()
    assert (settings.name, settings.host, settings.port, settings.enable_server) == (None, "0.0.0.0", 8000, None)
    assert (settings.dev, settings.handle_signals, settings.shutdown_timeout) == (False, True, 30)
    assert (settings.certfile, settings.keyfile, settings.sockets) == (None, None, ())
    assert (settings.event_buffer, settings.event_workers) == (10_000, 100)
    assert (settings.max_concurrent_runs, settings.max_connections) == (10_000, 10_000)
    assert {
        settings.max_memory_active,
        settings.max_memory_queued,
        settings.max_memory_runs,
        settings.max_memory_answers,
    } == {2**28}


LIMITS = (
    "event_buffer",
    "event_workers",
    "max_concurrent_runs",
    "max_connections",
    "max_memory_queued",
    "max_memory_active",
    "max_memory_runs",
    "max_memory_answers",
)


@pytest.mark.parametrize(
    "options",
    [
        {"port": 0},
        {"port": 1},
        {"port": 65535},
        {"shutdown_timeout": 0},
        {"certfile": "a"},
        {"uds": "a"},
        {"uds": "a", "uds_mode": 0},
        {"uds": "a", "uds_mode": 0o777},
        {"fd": 0},
        {"certfile": "a", "keyfile": "b"},
        *({limit: 1} for limit in LIMITS),
    ],
)
def test_takes_what_is_just_within_its_bounds(options: dict[str, Any]) -> None:
    settings = ServeSettings(**options)
    assert {name: getattr(settings, name) for name in options} == options


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"port": -1}, "port=-1"),
        ({"port": 65536}, "port=65536"),
        ({"shutdown_timeout": -0.1}, "shutdown_timeout=-0.1"),
        ({"shutdown_timeout": float("nan")}, "shutdown_timeout=nan"),
        ({"keyfile": "b"}, "keyfile='b' needs its certfile"),
        ({"uds": "a", "fd": 3}, "uds='a' and fd=3: give one of them"),
        ({"uds": ""}, "uds='': the path of a Unix socket"),
        ({"uds_mode": 660}, "uds_mode=660: permissions from 0o000 to 0o777, such as 0o660"),
        ({"uds_mode": "660"}, "uds_mode='660': permissions"),
        ({"fd": -1}, "fd=-1: at least 0"),
        ({"trusted_proxies": ["unix:"]}, "neither 'unix' nor an address"),
        *(({limit: 0}, f"{limit}=0: at least 1") for limit in LIMITS),
    ],
)
def test_refuses_what_is_just_beyond_and_names_it(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        ServeSettings(**options)


@pytest.mark.parametrize(
    ("option", "wrong", "way_out"),
    [
        ("host", None, "an address or a host's name"),
        ("port", "8000", r"such as int\(\.\.\.\) of it"),
        ("port", 80.5, "a whole number"),
        ("shutdown_timeout", "30", r"such as float\(\.\.\.\) of it"),
        ("shutdown_timeout", None, "seconds"),
        *((limit, "9", "a whole number") for limit in LIMITS),
    ],
)
def test_says_of_an_environment_variables_text_what_it_should_be(option: str, wrong: Any, way_out: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{option}={wrong!r}: .*{way_out}"):
        ServeSettings(**{option: wrong})


def test_keywords_and_guide_are_made_from_the_list() -> None:
    """After a change of the list: `python tests/serve_options.py`."""
    assert serve_options.KEYWORDS.read_text() == serve_options.keywords()
    assert serve_options.GUIDE.read_text() == serve_options.guide()
