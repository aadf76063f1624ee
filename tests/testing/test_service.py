"""A served agent with its client."""

from __future__ import annotations

import pytest

from definable.agent import Agent
from definable.agent.trigger import Cron
from definable.errors import ConfigurationError
from definable.testing import served

pytestmark = pytest.mark.anyio


async def test_it_answers_whatever_else_the_agent_has() -> None:
    agent = Agent("offline")
    agent.on(Cron("0 9 * * *"))(print)
    async with served(agent, enable_server=None) as service:
        assert (await service.client.post("/run", json={"input": "hi"})).json()["content"] == "hi"


async def test_without_a_server_there_is_no_client_to_give() -> None:
    with pytest.raises(ConfigurationError, match=r"without a server use agent\.running"):
        async with served(Agent("offline"), enable_server=False):
            pass
