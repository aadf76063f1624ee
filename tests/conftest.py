"""Shared by the whole suite: every async test runs on asyncio and on trio."""

import pytest

pytest_plugins = ["suite_accounting", "planted_secrets"]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param
