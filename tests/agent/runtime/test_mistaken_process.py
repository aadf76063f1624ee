"""The exit status of processes whose user code makes mistakes: everywhere, by interrupts, before serving."""

from __future__ import annotations

import signal
from pathlib import Path

import httpx2
import pytest
from agent.runtime.test_user_mistakes import LEFT_OPEN, RAISED
from fallible_service import CHAT_PLACES, REQUESTS, SYNC_PLACES
from watched_process import BOUND, WatchedProcess

TESTS = Path(__file__).parents[2]

PLACES = [place for place in (*REQUESTS, "event", "cron", *CHAT_PLACES) if place not in ("auth", "receive")]
"""But for an auth provider, which is there from the beginning or not at all, and for what a chat begins with."""

MISTAKEN = """
import sys
from anyio import Event
from fallible_service import Chat, Service, agent_of
from agent.runtime.test_user_mistakes import LEFT_OPEN, RAISED
from definable.agent.trigger import Webhook

service = Service("receive", RAISED["panic"])
agent, chat = agent_of(service), Chat(service)

@agent.on(Webhook("/next"))
async def next_mistake(event):
    service.place, mistake = event.body
    service.make_mistake = (RAISED | LEFT_OPEN)[mistake]
    service.made = Event()

@agent.on(Webhook("/provoke"))
async def provoke(event):
    if service.place == "event":
        agent.emit("happened")
    elif service.place == "cron":
        await agent.runtime.fire(service.firing)
    else:
        chat.say()
    await service.made.wait()

print("report", agent.serve(chat, host="127.0.0.1", port=0, backend=sys.argv[1]), flush=True)
"""

INTERRUPTED = """
import sys
from definable.agent import Agent
from definable.agent.trigger import Webhook

agent = Agent("offline")

@agent.on(Webhook("/async"))
async def interrupt(event):
    raise KeyboardInterrupt

@agent.on(Webhook("/sync"))
def interrupt_in_thread(event):
    raise KeyboardInterrupt

agent.serve(host="127.0.0.1", port=0, backend=sys.argv[1])
"""

BEGINNING = """
import sys
import anyio
from definable.agent import Agent
from agent.runtime.test_user_mistakes import LEFT_OPEN, RAISED

agent = Agent("offline")

@agent.blueprint.before_app_serving
async def open_pool():
    made = (RAISED | LEFT_OPEN)[sys.argv[2]]()
    if made is not None:
        await made

agent.serve(host="127.0.0.1", port=0, backend=sys.argv[1], enable_server=True)
"""


def started(program: str, *arguments: str) -> WatchedProcess:
    return WatchedProcess(["-W", "ignore", "-c", program, *arguments], TESTS, {"PYTHONPATH": str(TESTS)})


@pytest.mark.timeout(180)
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_service_whose_code_has_made_every_mistake_ends_with_0(backend: str) -> None:
    with started(MISTAKEN, backend) as process:
        with httpx2.Client(base_url=process.wait_for(r"http +(http://\S+)"), trust_env=False, timeout=BOUND) as client:
            for mistake in (*RAISED, *LEFT_OPEN):
                for place in PLACES:
                    if mistake in LEFT_OPEN and place in SYNC_PLACES:
                        continue
                    assert client.post("/next", json=[place, mistake]).status_code == 200
                    path, body = REQUESTS.get(place, ("/provoke", None))
                    assert client.post(path, json=body).status_code in (200, 202, 500), (place, mistake)
                    assert client.get("/health").json()["status"] == "ok", (place, mistake)
        process.process.send_signal(signal.SIGTERM)
        assert process.exit_status() == 0
        assert "stopped cleanly" in process.wait_for("report (.*)")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("path", ["/async", "/sync"])
def test_a_keyboard_interrupt_of_user_code_ends_the_process_as_one_of_the_terminal(backend: str, path: str) -> None:
    with started(INTERRUPTED, backend) as process:
        with httpx2.Client(base_url=process.wait_for(r"http +(http://\S+)"), trust_env=False, timeout=BOUND) as client:
            try:
                client.post(path, json={})
            except httpx2.TransportError:
                pass
        assert process.exit_status() == -signal.SIGINT, process.text  # shells say 130


BEFORE_SERVING = {"panic": 1, "exit": 3, "speechless": 1, "client": 1, "generator": 1, "scope": 1}
"""The exit status by what is done before serving: `sys.exit(3)` is taken at its word there."""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("mistake", BEFORE_SERVING)
def test_a_mistake_before_serving_ends_the_start(backend: str, mistake: str) -> None:
    with started(BEGINNING, backend, mistake) as process:
        assert process.exit_status() == BEFORE_SERVING[mistake], process.text
        if mistake in LEFT_OPEN:
            assert "a before_serving function left" in process.text
