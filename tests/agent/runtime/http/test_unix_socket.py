"""An agent on a Unix socket: clients without an address, proxies that are trusted, the banner, development mode."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from quart import request
from watched_process import WatchedProcess

from definable.agent import Agent
from definable.agent.runtime.banner import banner, warnings
from definable.agent.trigger import Reply, Webhook
from definable.testing import served

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")]


def agent() -> Agent:
    agent = Agent("offline")

    @agent.on(Webhook("/hook"))
    def hook(event: Any) -> Reply:
        return Reply({"client": event.raw.client, "scheme": event.raw.scheme})

    @agent.blueprint.get("/own")
    async def own() -> dict[str, Any]:
        return {"client": request.remote_addr, "url": request.url}

    return agent


FORWARDED = {"x-forwarded-for": "203.0.113.7", "x-forwarded-proto": "https", "x-forwarded-host": "agent.example"}


async def test_runs_and_routes_are_answered(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "definable.access")
    uds = tmp_path / "http.sock"
    async with served(agent(), uds=uds, access_log=True) as service:
        client = service.client
        assert service.runtime.url == f"unix:{uds}"
        assert (await client.post("/run", json={"input": "hi"})).json()["content"] == "hi"
        assert (await client.post("/hook", headers=FORWARDED)).json() == {"client": None, "scheme": "http"}
        assert (await client.get("/own", headers=FORWARDED)).status_code == 200
        # Nobody can have a page's own name lead to a file: `Host` is the proxy's affair.
        assert (await client.get("/own", headers={"host": "agent.example"})).status_code == 200
        lines = banner(service.runtime.summary()).splitlines()
        assert f"  http     unix:{uds}" in lines
        assert any(f"curl --unix-socket {uds} http://localhost/run" in line for line in lines)
        assert not [line for line in warnings(service.runtime.summary()) if "other machines" in line]
    assert caplog.messages[0].startswith("- POST /run 200")
    assert not uds.exists()


async def test_a_proxy_that_is_trusted_says_who_the_client_is(tmp_path: Path) -> None:
    async with served(agent(), uds=tmp_path / "http.sock", trusted_proxies=["unix"]) as service:
        client = service.client
        hook = await client.post("/hook", headers=FORWARDED)
        assert hook.json() == {"client": ["203.0.113.7", 0], "scheme": "https"}
        own = await client.get("/own", headers=FORWARDED)
        assert own.json() == {"client": "203.0.113.7", "url": "https://agent.example/own"}
        assert (await client.post("/hook")).json()["client"] is None


async def test_trust_in_a_unix_socket_is_none_in_addresses() -> None:
    async with served(agent(), trusted_proxies=["unix"]) as service:
        assert (await service.client.post("/hook", headers=FORWARDED)).json()["client"][0] == "127.0.0.1"


async def test_a_start_on_a_path_in_use_fails_whole(tmp_path: Path) -> None:
    uds = tmp_path / "http.sock"
    async with served(agent(), uds=uds) as service:
        with pytest.raises(OSError, match=f"cannot listen on unix:{uds}: a process listens there"):
            await agent().aserve(uds=uds, enable_server=True)
        assert (await service.client.get("/health")).status_code == 200


APP = """
import sys
from definable.agent import Agent

agent = Agent("offline", name="VERSION 1")

if __name__ == "__main__":
    agent.serve(uds="http.sock", backend=sys.argv[1], dev=True, enable_server=True)
"""


async def health(path: Path) -> httpx2.Response:
    async with httpx2.AsyncClient(transport=httpx2.AsyncHTTPTransport(uds=str(path)), timeout=30) as client:
        return await client.get("http://localhost/health")


async def test_it_stays_over_the_restarts_of_development_mode(tmp_path: Path, anyio_backend: str) -> None:
    program, uds = tmp_path / "app.py", tmp_path / "http.sock"
    program.write_text(APP)
    with WatchedProcess(["app.py", anyio_backend], tmp_path) as process:
        await anyio.to_thread.run_sync(process.wait_for, r"http +unix:")
        assert (await health(uds)).json()["agent"] == "VERSION 1"
        inode = uds.stat().st_ino
        program.write_text(APP.replace("VERSION 1", "VERSION 2"))
        await anyio.to_thread.run_sync(process.wait_for, "restarted in")
        assert (await health(uds)).json()["agent"] == "VERSION 2"
        assert uds.stat().st_ino == inode
        process.process.terminate()
        assert await anyio.to_thread.run_sync(process.process.wait, 30) == 0
    assert not uds.exists()
