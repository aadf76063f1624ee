"""What proxies say of a client counts from those that are trusted, and from nobody else."""

from __future__ import annotations

from typing import Any

import pytest
from loopback.agent_api import serve_ourselves
from quart import request

from definable.agent import Agent
from definable.agent.runtime.http.forwarded import checked_networks, said_of_client
from definable.agent.runtime.settings import ServeSettings
from definable.agent.trigger import Reply, Webhook
from definable.errors import ConfigurationError

TRUSTED = checked_networks(["127.0.0.1", "10.0.0.0/8"])


@pytest.mark.parametrize(
    ("headers", "client", "scheme", "host"),
    [
        ({}, None, None, None),
        ({"x-forwarded-for": "203.0.113.7"}, "203.0.113.7", None, None),
        ({"x-forwarded-for": "6.6.6.6, 203.0.113.7, 10.1.2.3"}, "203.0.113.7", None, None),  # the first is the client's
        ({"x-forwarded-for": "10.0.0.1, 10.0.0.2"}, "10.0.0.1", None, None),
        ({"x-forwarded-for": "203.0.113.7, unknown"}, None, None, None),
        ({"x-forwarded-for": "203.0.113.7:4711"}, "203.0.113.7", None, None),
        ({"x-forwarded-for": "[2001:db8::1]:4711"}, "2001:db8::1", None, None),
        ({"x-forwarded-proto": "https"}, None, "https", None),
        ({"x-forwarded-proto": "gopher", "x-forwarded-host": "a b"}, None, None, None),
        ({"x-forwarded-host": "app.example:8443"}, None, None, b"app.example:8443"),
        (
            {
                "forwarded": 'for=6.6.6.6, for="[2001:db8::1]:99";proto=https;host=app.example',
                "x-forwarded-for": "1.1.1.1",
            },
            "2001:db8::1",
            "https",
            b"app.example",
        ),
        ({"forwarded": "for=_hidden"}, None, None, None),
    ],
)
def test_what_a_trusted_proxy_says(headers: dict[str, str], client: Any, scheme: Any, host: Any) -> None:
    items = [(b"host", b"inner"), *((name.encode(), value.encode()) for name, value in headers.items())]
    said = said_of_client({"type": "http", "headers": items}, TRUSTED)
    assert said.get("client") == (None if client is None else (client, 0))
    assert said.get("scheme") == scheme
    changed: Any = said.get("headers", items)
    assert dict(changed)[b"host"] == (host or b"inner")


@pytest.mark.parametrize(
    "option", [{"trusted_proxies": ["proxy"]}, {"trusted_proxies": "127.0.0.1"}, {"root_path": "agent"}], ids=str
)
def test_what_cannot_be_meant_is_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(option))):
        ServeSettings(**option)


SAID = {"x-forwarded-for": "203.0.113.7", "x-forwarded-proto": "https", "x-forwarded-host": "localhost:444"}


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("trusted", "client", "url"),
    [(["127.0.0.1"], "203.0.113.7", "https://localhost:444/agent/own"), ([], "127.0.0.1", "http://{host}/agent/own")],
)
async def test_the_client_is_whom_a_trusted_proxy_names(trusted: list[str], client: str, url: str) -> None:
    agent = Agent("offline")
    agent.on(Webhook("/hook"))(lambda event: Reply({"client": event.raw.client[0]}))

    @agent.blueprint.get("/own")
    async def own() -> dict[str, Any]:
        return {"client": request.remote_addr, "url": request.url}

    async with serve_ourselves(agent, trusted_proxies=trusted, root_path="/agent/") as service:
        host = service.base_url.netloc.decode()
        assert (await service.post("/hook", headers=SAID)).json() == {"client": client}
        for path in ("/own", "/agent/own"):  # whether the proxy takes the prefix off or not
            got = (await service.get(path, headers=SAID)).json()
            assert got == {"client": client, "url": url.format(host=host)}
        response = await service.post("/run", json={"input": "hi"}, headers={"prefer": "respond-async"})
        assert response.headers["location"] == f"/agent/runs/{response.json()['run_id']}"
        assert (await service.get(response.headers["location"])).status_code == 200
