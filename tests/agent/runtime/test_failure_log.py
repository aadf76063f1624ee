"""What a run that cannot succeed says in the log: one line where the words say it all, else a traceback."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import pytest

from definable.agent import Agent
from definable.agent.runtime import RunContextFilter
from definable.agent.trigger import EventTrigger, TriggerEvent, Webhook
from definable.testing import served

pytestmark = pytest.mark.anyio

NO_KEY = "ModelAuthenticationError: no API key for gpt-4o: set OPENAI_API_KEY, or pass api_key= to OpenAIChat"


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    caplog.handler.addFilter(RunContextFilter())
    return caplog


def failures(log: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in log.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/run", {}),
        ("/run", {"Accept": "text/event-stream"}),
        ("/run", {"Prefer": "respond-async"}),
        ("/wait", {}),
        ("/accept", {}),
        ("event", {}),
    ],
)
async def test_a_missing_key_is_one_clear_line_a_run(
    path: str, headers: dict[str, str], log: pytest.LogCaptureFixture
) -> None:
    agent = Agent("openai/gpt-4o")
    agent.on(Webhook("/wait"))(lambda event: "hi")
    agent.on(Webhook("/accept", respond="accept"))(lambda event: "hi")
    agent.on(EventTrigger("event"))(lambda event: "hi")
    async with served(agent) as service:
        if path == "event":
            agent.emit("event")
        else:
            await service.client.post(path, json={"input": "hi"}, headers=headers)
    [record] = failures(log)
    assert NO_KEY in record.getMessage() and record.exc_info is None
    assert "\n" not in record.getMessage()
    assert getattr(record, "run_id", "").startswith("run_")


async def test_every_attempt_is_one_line(log: pytest.LogCaptureFixture) -> None:
    agent = Agent("openai/gpt-4o")
    agent.on(Webhook("/wait", retries=1))(lambda event: "hi")
    async with served(agent) as service:
        assert (await service.client.post("/wait")).status_code == 502
    attempts = [record for record in log.records if NO_KEY in record.getMessage()]
    assert [record.levelno for record in attempts] == [logging.WARNING, logging.ERROR]
    assert not any(record.exc_info for record in attempts)


async def test_a_failure_of_the_users_code_has_its_traceback(log: pytest.LogCaptureFixture) -> None:
    agent = Agent("offline")

    @agent.on(EventTrigger("event"))
    async def broken(event: TriggerEvent) -> Any:
        await anyio.lowlevel.checkpoint()
        raise KeyError("mine")

    async with agent.running(enable_server=False):
        agent.emit("event")
    [record] = failures(log)
    assert record.exc_info is not None and record.exc_info[0] is KeyError
