"""`EventSource` and WebSockets can set no header: by the guide's own provider, a token in the URL, or a cookie."""

from __future__ import annotations

import os
import re
from pathlib import Path
from time import time
from typing import Any

import anyio
import httpx2
import jwt
import pytest
from loopback.browser import BrowserMissing, browsing, find
from quart import websocket

from definable.agent import Agent
from definable.testing import served

pytestmark = pytest.mark.anyio

GUIDE = Path(__file__).parents[4] / "docs" / "auth.md"

SECRET = "a secret of at least thirty-two bytes"

KINDS = ("token", "cookie")


def agent_of_the_guide() -> Agent:
    """The agent of the guide's program with the class `Browser`, and a route and a WebSocket of its own."""
    [program] = re.findall(r"^```python\n((?:(?!^```).)*?^class Browser:.*?)^```", GUIDE.read_text(), re.M | re.S)
    names: dict[str, Any] = {}
    exec(program, names)
    agent = names["agent"]
    assert isinstance(agent, Agent) and SECRET in program

    @agent.blueprint.get("/")
    async def page() -> str:
        return "<!doctype html><title>a page</title><body>"

    @agent.blueprint.websocket("/ws")
    async def socket() -> None:
        await websocket.send(f"hello {websocket.scope['definable.auth'].user_id}")
        await websocket.receive()

    return agent


def token_of(user: str) -> str:
    return jwt.encode({"sub": user, "exp": time() + 600}, SECRET, "HS256")


async def run_of(client: httpx2.AsyncClient, token: str) -> str:
    """The id of a run that has ended."""
    response = await client.post(f"/run?token={token}", json={"input": "hi"})
    assert response.status_code == 200
    return response.json()["run_id"]


async def handshake(client: httpx2.AsyncClient, path: str, cookie: str) -> int:
    """The status that a WebSocket's handshake is answered with."""
    port = client.base_url.port
    assert port is not None
    asked = (
        f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nupgrade: websocket\r\nconnection: upgrade\r\n{cookie}"
        "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        await stream.send(asked.encode())
        return int((await stream.receive()).split()[1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("user", ["ann", "bob", None], ids=["hers", "another's", "nobody's"])
async def test_a_token_in_the_url_or_a_cookie_says_who_is_calling(kind: str, user: str | None) -> None:
    token = "forged" if user is None else token_of(user)
    query, cookie = (f"?token={token}", "") if kind == "token" else ("", f"token={token}")
    with anyio.fail_after(30):
        async with served(agent_of_the_guide()) as service:
            run_id = await run_of(service.client, token_of("ann"))
            headers = {"accept": "text/event-stream"} | ({"cookie": cookie} if cookie else {})
            events = await service.client.get(f"/runs/{run_id}/events{query}", headers=headers)
            assert events.status_code == {"ann": 200, "bob": 404, None: 401}[user]
            assert ("hi" in events.text) is (user == "ann")
            line = f"cookie: {cookie}\r\n" if cookie else ""
            assert await handshake(service.client, f"/ws{query}", line) == (401 if user is None else 101)


PAGE = """
const [run, token] = args;
const events = query => new Promise(resolve => {
    const source = new EventSource('/runs/' + run + '/events' + query);
    source.addEventListener('run_ended', message => { source.close(); resolve(JSON.parse(message.data).content); });
    source.onerror = () => { source.close(); resolve('refused'); };
});
const socket = query => new Promise(resolve => {
    const it = new WebSocket('ws://' + location.host + '/ws' + query);
    it.onmessage = message => { it.close(); resolve(message.data); };
    it.onerror = () => resolve('refused');
});
const both = async query => [await events(query), await socket(query)];
const nothing = await both(''), forged = await both('?token=forged'), byToken = await both('?token=' + token);
document.cookie = 'token=' + token + '; SameSite=Strict';
return {nothing, forged, byToken, byCookie: await both('')};
"""


async def test_a_page_of_ones_own_follows_runs_and_opens_websockets(tmp_path: Path) -> None:
    try:
        programs = find()
    except BrowserMissing as missing:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(missing))
    with anyio.fail_after(110):
        async with (
            served(agent_of_the_guide(), public=["/"]) as service,
            browsing(programs, tmp_path) as browser,
        ):
            run_id = await run_of(service.client, token_of("ann"))
            await browser.open(str(service.client.base_url))
            said = await browser.run(PAGE, run_id, token_of("ann"))
    refused, let_in = ["refused", "refused"], ["hi", "hello ann"]
    assert said == {"nothing": refused, "forged": refused, "byToken": let_in, "byCookie": let_in}
