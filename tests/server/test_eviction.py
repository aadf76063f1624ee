"""As many connections as there may be: who waits for nothing gives way to who comes, and nobody who is served."""

from __future__ import annotations

import socket
from contextlib import AsyncExitStack

import anyio
import pytest

from definable.server import ServerLimits

pytestmark = pytest.mark.anyio

CROWD = 50


async def asked(client, path="/echo"):
    await client.get(path)
    return (await client.response()).status


async def test_the_longest_idle_connection_gives_way_to_a_new_one(serving):
    async with serving(limits=ServerLimits(max_connections=3)) as served, AsyncExitStack() as stack:
        first, second, third = [await stack.enter_async_context(served.client()) for _ in range(3)]
        for client in (first, second, third, first):
            assert await asked(client) == 200
        async with served.client() as fourth:
            assert await asked(fourth) == 200
            assert await second.rest() == b""
        assert await asked(first) == await asked(third) == 200


@pytest.mark.parametrize("said", ["", "GET / HTTP/1.1\r\nHo"], ids=["silent", "in a head"])
async def test_a_crowd_that_asks_for_nothing_shuts_nobody_out(serving, said):
    async with serving(limits=ServerLimits(max_connections=CROWD)) as served, AsyncExitStack() as stack:
        for _ in range(CROWD):
            client = await stack.enter_async_context(served.client())
            await client.send(said)
        while served.server.open_connections < CROWD:
            await anyio.sleep(0.001)
        for _ in range(2 * CROWD):
            async with served.client() as client:
                assert await asked(client) == 200


async def test_silent_strangers_make_room_for_each_other_and_not_a_client(serving):
    async with serving(limits=ServerLimits(max_connections=CROWD)) as served, AsyncExitStack() as stack:
        async with served.client() as client:
            assert await asked(client) == 200
            for _ in range(2 * CROWD):
                await stack.enter_async_context(served.client())
            while served.server.open_connections < CROWD:
                await anyio.sleep(0.001)
            assert await asked(client) == 200


async def test_one_that_has_begun_a_request_goes_after_those_that_have_not(serving):
    async with serving(limits=ServerLimits(max_connections=2)) as served:
        async with served.client() as begun, served.client() as idle:
            assert await asked(begun) == 200
            await begun.send("GET /echo HTTP/1.1\r\n")
            assert await asked(idle) == 200
            async with served.client() as client:
                assert await asked(client) == 200
            assert await idle.rest() == b""
            await begun.send("Host: t\r\n\r\n")
            assert (await begun.response()).status == 200


async def test_requests_in_flight_are_never_cut_for_a_new_connection(serving):
    async with serving(limits=ServerLimits(max_connections=2)) as served:
        async with served.client() as first, served.client() as second:
            for client in (first, second):
                await client.get("/hold")
            await served.app.until(lambda: served.app.arrived == 2)
            for _ in range(10):
                async with served.client() as client:
                    assert (await client.response()).status == 503
            served.app.release.set()
            assert (await first.response()).body == (await second.response()).body == b"held"


async def test_a_request_that_has_arrived_is_not_cut_off(serving):
    """It lies in the system's buffer when the new connection comes."""
    async with serving(limits=ServerLimits(max_connections=1)) as served:
        with socket.create_connection(("127.0.0.1", served.port)) as client:
            for _ in range(2):
                client.sendall(b"GET /echo HTTP/1.1\r\nHost: t\r\n\r\n")
                await anyio.wait_readable(client)
                assert client.recv(1000).startswith(b"HTTP/1.1 200")
            while served.server.open_connections != 1:
                await anyio.sleep(0.001)
            # Both come before the server's event loop goes on.
            with socket.create_connection(("127.0.0.1", served.port)) as late:
                client.sendall(b"GET /echo HTTP/1.1\r\nHost: t\r\n\r\n")
                await anyio.wait_readable(client)
                assert client.recv(1000).startswith(b"HTTP/1.1 200")
                await anyio.wait_readable(late)
                assert late.recv(1000).startswith(b"HTTP/1.1 503")


async def test_idle_connections_give_way_when_the_system_has_no_descriptor_left(serving, monkeypatch):
    accept = socket.socket.accept
    async with serving() as served, served.client() as idle:
        assert await asked(idle) == 200

        def failing(listener):
            if served.server.open_connections:
                raise OSError(24, "Too many open files")
            return accept(listener)

        monkeypatch.setattr(socket.socket, "accept", failing)
        async with served.client() as client:
            assert await asked(client) == 200
        assert await idle.rest() == b""
