"""schemathesis, which others wrote, holds a served agent to its own OpenAPI document."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from definable.agent import Agent
from definable.agent.auth import APIKeyAuth
from definable.agent.trigger import Reply, TriggerEvent, Webhook
from definable.testing import served

KEY = "a-long-random-key"

EXAMPLES = int(os.environ.get("DEFINABLE_EXAMPLES", "8"))
"""Of each operation, in each of schemathesis' phases."""

SCHEMATHESIS = [
    *(
        str(Path(sys.executable).with_name("schemathesis")),
        "run",
        "--no-color",
        "--seed=1",
        f"--max-examples={EXAMPLES}",
    ),
    *("--checks=all", "--exclude-checks=use_after_free"),  # a run that was cancelled is shown still
    *("--continue-on-failure", "--request-timeout=10", "--wait-for-schema=10", f"--header=X-API-Key:{KEY}"),
]
"""With a seed, so that one run does about the same work as the next."""

HOOKS = """
import uuid
import schemathesis
from schemathesis.generation import GenerationMode

@schemathesis.hook
def before_call(context, case, kwargs):
    # A valid request with the key of another one is refused, as it should be: each gets a key of its own.
    if case.meta.generation.mode is GenerationMode.POSITIVE and "Idempotency-Key" in (case.headers or ()):
        case.headers["Idempotency-Key"] = uuid.uuid4().hex
"""


def agent_with_webhooks() -> Agent:
    """An agent with one webhook of each kind."""
    agent = Agent("offline", auth=APIKeyAuth(KEY))

    @agent.on(Webhook("/orders/{shop}"))
    def order(event: TriggerEvent) -> str:
        assert event.raw is not None
        return f"an order of {event.raw.path_params['shop']}: {event.body}"

    @agent.on(Webhook("/deliveries/{number}", respond="accept", dedupe="X-Delivery", auth=False))
    def delivery(event: TriggerEvent) -> str:
        return "a delivery"

    @agent.on(Webhook("/deliveries/{id}", method="GET"))
    def deliveries(event: TriggerEvent) -> list[Any]:
        return [1, "two", None]

    @agent.on(Webhook("/ping", method="PUT", dedupe="X-Ping"))
    def ping(event: TriggerEvent) -> None:
        return None

    @agent.on(Webhook("/handshake-{word}", method="PATCH"))
    async def handshake(event: TriggerEvent) -> Reply:
        return Reply("hello", status=201)

    return agent


@pytest.mark.anyio
@pytest.mark.timeout(60 + 5 * EXAMPLES)
async def test_every_answer_is_as_documented(tmp_path: Path) -> None:
    (tmp_path / "unique_keys.py").write_text(HOOKS)
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "unique_keys", "PYTHONPATH": str(tmp_path)}
    with anyio.fail_after(50 + 5 * EXAMPLES):
        async with served(agent_with_webhooks(), dev=True) as service:
            command = [*SCHEMATHESIS, f"{service.runtime.url}/openapi.json"]
            done = await anyio.run_process(command, check=False, env=environment)
    said = done.stdout.decode()
    assert done.returncode == 0, said
    assert "Operations:       13 selected / 13 total" in said
