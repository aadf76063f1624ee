"""Looks for the secrets that tests plant in everything that definable logs; a pytest plugin that `conftest.py` names.

A test fails whose records hold one.
"""

from __future__ import annotations

import logging
from collections.abc import Generator

import pytest

PLANTED = (
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",  # Telegram's bot token, without the bot's public number
    "loopback-signature_0123456789abcdef",  # Discord's bot token, its signature
    "loopbackSlackSecret00000",  # Slack's bot token
    "300000000003-loopback",  # Slack's app token
    "sk-loopback",
    "sk-wrong",
    "a-long-random-key",
    "a secret of at least 32 bytes",
    "ssssssssssssssssssssssssssssssss",
    "oooooooooooooooooooooooooooooooo",
    "a_secret-1",
    "s3cret",
)
"""Tokens, keys and passwords of tests all over the suite."""

EVERYTHING = logging.DEBUG - 1
"""The level at which this plugin has definable log; another one was set by a test."""


class SecretFinder(logging.Handler):
    """Formats every record, traceback included, and keeps those that hold a secret."""

    def __init__(self) -> None:
        super().__init__(EVERYTHING)
        self.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s"))
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        # Without the exception itself: `format` shows it, also one whose own `__repr__` fails.
        rest = {name: value for name, value in vars(record).items() if name != "exc_info"}
        text = f"{self.format(record)} {rest}"
        self.found += [f"{secret!r} in {text!r}" for secret in PLANTED if secret in text]


class AsBefore(logging.Filter):
    """Lets pytest's handlers see what they would without this plugin."""

    def filter(self, record: logging.LogRecord) -> bool:
        logger = logging.getLogger(record.name)
        is_ours = logger.getEffectiveLevel() == EVERYTHING
        return not is_ours or record.levelno >= logging.getLogger().level


FINDER: pytest.StashKey[SecretFinder] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    finder = config.stash[FINDER] = SecretFinder()
    logger = logging.getLogger("definable")
    logger.setLevel(EVERYTHING)
    logger.addHandler(finder)


def pytest_sessionstart(session: pytest.Session) -> None:
    plugin = session.config.pluginmanager.get_plugin("logging-plugin")
    if plugin is not None:
        for handler in (plugin.caplog_handler, plugin.report_handler):
            handler.addFilter(AsBefore())


@pytest.fixture(autouse=True)
def no_logged_secrets(request: pytest.FixtureRequest) -> Generator[None, None, None]:
    """Fails a test that has definable log a secret."""
    finder = request.config.stash[FINDER]
    finder.found.clear()
    yield
    assert not finder.found, f"secrets were logged: {finder.found}"
