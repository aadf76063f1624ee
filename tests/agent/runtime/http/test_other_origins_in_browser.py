"""Pages of other origins in a real browser: what they can make an agent do, without `cors=` and with it."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest
from loopback.browser import Browser, BrowserMissing, browsing, find
from quart import websocket

from definable.agent import Agent
from definable.agent.auth import APIKeyAuth
from definable.agent.trigger import Webhook
from definable.testing import served

pytestmark = pytest.mark.anyio

EVIL, FRIEND, REBOUND = "evil.example", "app.example", "rebound.example"

KEY = "a-long-random-key"


@pytest.fixture(scope="module")
def programs() -> tuple[str, str]:
    try:
        return find()
    except BrowserMissing as missing:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(missing))


@dataclass
class Target:
    """An agent that pages try to reach, and what they reached."""

    agent: Agent
    runs: list[str] = field(default_factory=list[str])
    touched: list[str] = field(default_factory=list[str])


def target(**options: Any) -> Target:
    """An agent whose every endpoint runs it, or notes that it was reached."""
    agent = Agent("offline", **options)
    made = Target(agent)
    agent.before_request(lambda context: made.runs.append(str(context.input)))
    agent.on(Webhook("/hook", auth=False))(lambda event: f"hook {event.raw.body!r}")
    agent.on(Webhook("/accept", auth=False, respond="accept"))(lambda event: f"accept {event.raw.body!r}")
    agent.on(Webhook("/look", method="GET", auth=False))(lambda event: "look")
    agent.on(Webhook("/remove", method="DELETE", auth=False))(lambda event: "remove")

    @agent.blueprint.route("/own", methods=["GET", "POST", "PUT"])
    async def own() -> str:
        made.touched.append("own")
        return "own"

    @agent.blueprint.websocket("/ws")
    async def socket() -> None:
        made.touched.append("ws")
        await websocket.send(await websocket.receive())

    return made


@asynccontextmanager
async def pages() -> AsyncGenerator[int]:
    """A server of empty pages under other names; gives its port."""
    server = Agent("offline")

    @server.blueprint.get("/")
    async def page() -> str:
        return "<!doctype html><title>a page</title><body>"

    async with served(server, allowed_hosts=[EVIL, FRIEND]) as service:
        yield service.client.base_url.port or 80


ATTACK = """
const url = args[0], said = [];
const json = JSON.stringify({input: 'cross-site'});
const form = () => { const it = new FormData(); it.append('input', 'cross-site'); return it; };
const bodies = {
    text: () => json,
    blob: () => new Blob([json]),
    'json blob': () => new Blob([json], {type: 'application/json'}),
    bytes: () => new TextEncoder().encode(json),
    urlencoded: () => new URLSearchParams({input: 'cross-site'}),
    multipart: form,
};
async function attempt(name, what) {
    try { said.push(name + ': ' + await what()); } catch (error) { said.push(name + ': ' + error.name); }
}
const kind = response => response.type + ' ' + response.status;
for (const mode of ['cors', 'no-cors', 'same-origin'])
    for (const credentials of ['omit', 'include']) {
        for (const path of ['/run', '/hook', '/accept', '/own'])
            for (const [name, body] of Object.entries(bodies))
                await attempt(`fetch ${mode} ${credentials} ${path} ${name}`, async () =>
                    kind(await fetch(url + path, {method: 'POST', mode, credentials, body: body()})));
        for (const path of ['/look', '/own', '/runs'])
            await attempt(`fetch ${mode} ${credentials} GET ${path}`, async () =>
                kind(await fetch(url + path, {mode, credentials})));
        await attempt(`fetch ${mode} DELETE`, async () =>
            kind(await fetch(url + '/remove', {method: 'DELETE', mode, credentials})));
    }
await attempt('fetch with a JSON type', async () => kind(await fetch(url + '/run', {
    method: 'POST', headers: {'content-type': 'application/json'}, body: json})));
await attempt('fetch keepalive', async () =>
    kind(await fetch(url + '/hook', {method: 'POST', mode: 'no-cors', keepalive: true, body: json})));
for (const [name, body] of Object.entries(bodies)) {
    await attempt(`beacon ${name}`, async () => navigator.sendBeacon(url + '/run', body()));
    await attempt(`beacon ${name} to the webhook`, async () => navigator.sendBeacon(url + '/hook', body()));
}
await attempt('XMLHttpRequest', () => new Promise(resolve => {
    const request = new XMLHttpRequest();
    request.onloadend = () => resolve(request.status);
    request.open('POST', url + '/hook');
    request.send(json);
}));
const element = (tag, attributes) => new Promise(resolve => {
    const it = Object.assign(document.createElement(tag), attributes);
    it.onload = () => resolve('loaded');
    it.onerror = () => resolve('error');
    document.body.append(it);
});
await attempt('image', () => element('img', {src: url + '/look'}));
await attempt('script', () => element('script', {src: url + '/look'}));
await attempt('stylesheet', () => element('link', {rel: 'stylesheet', href: url + '/look'}));
await attempt('frame', () => element('iframe', {src: url + '/look'}));
await attempt('CORS image', () => element('img', {crossOrigin: 'anonymous', src: url + '/look'}));
await attempt('EventSource', () => new Promise(resolve => {
    const source = new EventSource(url + '/look');
    source.onopen = () => resolve('open');
    source.onerror = () => { source.close(); resolve('error'); };
}));
await attempt('WebSocket', () => new Promise(resolve => {
    const socket = new WebSocket(url.replace('http', 'ws') + '/ws');
    socket.onopen = () => resolve('open');
    socket.onerror = () => resolve('error');
}));
for (const [method, path] of [['POST', '/run'], ['POST', '/hook'], ['POST', '/own'], ['GET', '/look']])
    for (const enctype of ['application/x-www-form-urlencoded', 'multipart/form-data', 'text/plain'])
        await attempt(`form ${method} ${path} ${enctype}`, () => new Promise(resolve => {
            const frame = document.createElement('iframe');
            frame.name = `frame${said.length}`;
            document.body.append(frame);
            const form = Object.assign(document.createElement('form'),
                {method, enctype, action: url + path, target: frame.name});
            // as text/plain its only field is a JSON document
            form.append(Object.assign(document.createElement('input'), {name: '{"input": "', value: '"}'}));
            document.body.append(form);
            frame.onload = () => resolve('loaded');
            form.submit();
        }));
return said;
"""

TOP_LEVEL = """
const form = Object.assign(document.createElement('form'), {method: args[1], enctype: 'text/plain', action: args[0]});
form.append(Object.assign(document.createElement('input'), {name: '{"input": "', value: '"}'}));
document.body.append(form);
setTimeout(() => form.submit());
"""


async def test_not_one_run_is_made_for_a_page_of_another_origin(programs: tuple[str, str], tmp_path: Path) -> None:
    it = target()
    with anyio.fail_after(55):
        async with (
            pages() as port,
            served(it.agent) as service,
            browsing(programs, tmp_path, (EVIL,)) as browser,
        ):
            url = str(service.client.base_url).rstrip("/")
            for page in (
                f"http://{EVIL}:{port}/",
                f"http://127.0.0.1:{port}/",
            ):  # another site; the same one, by its port
                await browser.open(page)
                said = await browser.run(ATTACK, url)
                assert len(said) > 150
                assert [line for line in said if line.endswith((": open", "cors 200", "basic 200"))] == []
            for method, path in [("POST", "/run"), ("POST", "/hook"), ("POST", "/own"), ("GET", "/look")]:
                await browser.open(f"http://{EVIL}:{port}/")
                await browser.run(TOP_LEVEL, url + path, method)
                assert "403" in await browser.text("//body[contains(., 'status')]")
            assert [run["source"] for run in (await service.client.get("/runs")).json()["runs"]] == []
    assert (it.runs, it.touched) == ([], [])


async def test_a_name_that_leads_here_shows_nothing(programs: tuple[str, str], tmp_path: Path) -> None:
    it = target()
    with anyio.fail_after(50):
        async with served(it.agent) as service, browsing(programs, tmp_path, (REBOUND,)) as browser:
            await browser.open(f"http://{REBOUND}:{service.client.base_url.port}/own")
            assert "421" in await browser.text("//body")
            status = (
                "return (await fetch('/run', {method: 'POST', body: '{\"input\": \"hi\"}', headers: args[0]})).status"
            )
            assert await browser.run(status, {"content-type": "application/json"}) == 421
    assert (it.runs, it.touched) == ([], [])


CALL = """
const [url, key, credentials] = args;
const headers = {'content-type': 'application/json', ...(key ? {'x-api-key': key} : {})};
const send = (method, path, body, more) => fetch(url + path,
    {method, credentials, headers: {...headers, ...more}, body: body && JSON.stringify(body)});
const whole = await (await send('POST', '/run', {input: 'whole', session_id: 's'})).json();
const streamed = await send('POST', '/run', {input: 'streamed run'}, {accept: 'text/event-stream'});
const names = [];
let text = '', decoder = new TextDecoder();
for (const reader = streamed.body.getReader();;) {
    const {value, done} = await reader.read();
    if (done) break;
    text += decoder.decode(value, {stream: true});
}
for (const line of text.split('\\n')) if (line.startsWith('event: ')) names.push(line.slice(7));
const later = await send('POST', '/run', {input: 'later'}, {prefer: 'respond-async'});
const wrong = await send('POST', '/run', {});
const missing = await send('GET', '/runs/none');
const forgotten = await send('DELETE', '/sessions/s');
const own = await (await send('PUT', '/own')).text();
return {
    whole: whole.content, names, later: later.status, location: later.headers.get('location'),
    wrong: (await wrong.json()).detail, missing: missing.status, forgotten: forgotten.status, own,
};
"""

SOCKET = """
return await new Promise((resolve, reject) => {
    const socket = new WebSocket(args[0].replace('http', 'ws') + '/ws');
    socket.onopen = () => socket.send('hello');
    socket.onmessage = message => resolve(message.data);
    socket.onerror = () => reject('refused');
});
"""


async def call(browser: Browser, url: str, key: str | None, credentials: str) -> dict[str, Any]:
    """What a page gets that uses the API as a front end does."""
    return await browser.run(CALL, url, key, credentials)


@pytest.mark.parametrize(
    ("key", "any_origin", "credentials"), [(None, False, "include"), (None, True, "omit"), (KEY, False, "same-origin")]
)
async def test_an_allowed_page_runs_the_agent_whole_and_streamed(
    programs: tuple[str, str], tmp_path: Path, key: str | None, any_origin: bool, credentials: str
) -> None:
    it = target(auth=None if key is None else APIKeyAuth(key))
    with anyio.fail_after(50):
        async with pages() as port:
            origin = f"http://{FRIEND}:{port}"
            async with (
                served(it.agent, cors=["*"] if any_origin else [origin]) as service,
                browsing(programs, tmp_path, (FRIEND,)) as browser,
            ):
                url = str(service.client.base_url).rstrip("/")
                await browser.open(f"{origin}/")
                got = await call(browser, url, key, credentials)
                if key is None:
                    assert await browser.run(SOCKET, url) == "hello"
    assert got["location"].startswith("/runs/")
    assert "input" in got["wrong"]
    assert got["names"][0] == "run_started"
    assert got["names"][-1] == "run_ended"
    assert (got["whole"], got["later"], got["missing"], got["forgotten"], got["own"]) == ("whole", 202, 404, 204, "own")
    assert it.runs[:2] == ["whole", "streamed run"]
