"""Shared by the whole suite: every async test runs on asyncio and on trio."""

import os
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A test that others slow down is not wrong: its time is bounded by pytest-timeout alone.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

# No test talks to a host beyond loopback. Reading the system's certificates takes longer than all else in a test over
# HTTP, for each client anew: a file with one certificate, which signs nothing, takes no time (child processes too).
os.environ["SSL_CERT_FILE"] = str(Path(__file__).parent / "loopback" / "no_authority.pem")

pytest_plugins = ["kinds", "suite_accounting", "planted_secrets", "loopback.redis", "loopback.postgres"]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Reports travel between processes as UTF-8, which half of a surrogate pair in a captured log line is not."""
    report = yield
    report.sections = [(title, text.encode("utf-8", "backslashreplace").decode()) for title, text in report.sections]
    return report
