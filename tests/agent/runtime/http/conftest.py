"""Every test of the API runs behind our own server and behind a foreign one."""

from __future__ import annotations

from functools import partial

import pytest
from loopback.agent_api import Serve, serve_foreign, serve_ourselves


@pytest.fixture(params=["our server", "a foreign server"])
def serve(request: pytest.FixtureRequest, anyio_backend: str) -> Serve:
    """Serves an agent, and yields a client of it."""
    return serve_ourselves if request.param == "our server" else partial(serve_foreign, anyio_backend)
