"""The HTTP API's client against the loopback server: limits, tries again, and what it makes of refusals."""

from __future__ import annotations

import gc
import logging

import anyio
import pytest
from loopback.discord_bot import bot_for
from loopback.discord_objects import TOKEN
from loopback.discord_rest import Answer
from loopback.discord_server import DiscordServer, Fault

from definable.agent.interface import (
    InterfaceAuthenticationError,
    InterfaceConnectionError,
    InterfaceError,
    InterfaceMessage,
    InterfaceMessageError,
    InterfaceRateLimitError,
    InterfaceResponse,
)
from definable.agent.interface.discord.attachments import completed
from definable.agent.interface.discord.errors import DiscordRateLimitError, error_of, read_id
from definable.agent.interface.discord.outgoing import outgoing
from definable.agent.interface.discord.rest import DiscordRest, Upload, open_rest
from definable.concurrency.backoff import Backoff
from definable.model import Image

pytestmark = pytest.mark.anyio


async def post(rest: DiscordRest, content: str = "hello", channel: str = "10") -> None:
    for each in outgoing(InterfaceResponse(content), None):
        await rest.create_message(channel, each.body, each.uploads)


async def posted_with(server: DiscordServer, *faults: Fault) -> float:
    """Post one message through faults; returns the seconds that it took."""
    server.faults.extend(faults)
    began = anyio.current_time()
    with anyio.fail_after(20):
        async with open_rest(bot_for(server).config) as rest:
            await post(rest)
    assert [each.content for each in server.posted] == ["hello"], "posted once"
    assert server.violations == []
    return anyio.current_time() - began


def problem(status: int, page: bytes | None = None, **headers: str) -> Fault:
    kind = "application/json" if page is None else "text/html"
    return Fault("answer", Answer(status, {"message": "no", "code": 0}, headers, page, kind))


async def test_a_429_is_waited_out() -> None:
    async with DiscordServer().running() as server:
        server.limit_next("/messages", 0.3)
        assert await posted_with(server) >= 0.3


async def test_a_global_429_holds_up_every_route() -> None:
    async with DiscordServer().running() as server, open_rest(bot_for(server).config) as rest:
        server.limit_next("/typing", 0.3, is_global=True)
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(rest.trigger_typing, "10")
                await server.until(lambda: not server.faults)
                await anyio.sleep(0.05)
                began = anyio.current_time()
                await post(rest, channel="20")
        assert anyio.current_time() - began > 0.15


async def test_a_proxys_429_is_no_json_and_is_obeyed() -> None:
    async with DiscordServer().running() as server:
        page = problem(429, b"<html>error 1015", **{"Retry-After": "1"})
        assert await posted_with(server, page) >= 1


async def test_a_limit_that_lasts_too_long_fails_at_once() -> None:
    async with DiscordServer().running() as server, open_rest(bot_for(server).config) as rest:
        server.limit_next("/messages", 3600)
        for _ in range(2):  # the second without a request
            with pytest.raises(InterfaceRateLimitError) as caught:
                await post(rest)
            assert caught.value.retry_after == pytest.approx(3600, abs=1)


@pytest.mark.parametrize("fault", [problem(500), problem(502, b"<html>"), Fault("vanish")])
async def test_what_fails_for_a_moment_is_tried_again(fault: Fault) -> None:
    async with DiscordServer().running() as server:
        await posted_with(server, fault, fault)


async def test_an_answer_that_cannot_be_decoded_is_tried_again_and_leaves_nothing_behind() -> None:
    async with DiscordServer().running() as server:
        await posted_with(server, problem(200, b"no gzip", **{"Content-Encoding": "gzip"}))
        gc.collect()  # trio says there what was not closed


async def test_a_message_whose_answer_was_lost_is_not_posted_twice() -> None:
    async with DiscordServer().running() as server:
        await posted_with(server, Fault("vanish after"), Fault("vanish after"))
        assert server.repeated == 2


async def test_what_keeps_failing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "definable.agent.interface.discord.rest.RETRY_BACKOFF", Backoff(0.01, max_tries=5, max_retry_after=60)
    )
    async with DiscordServer().running() as server, open_rest(bot_for(server).config) as rest:
        server.fail_next("/messages", *[503] * 5)
        with pytest.raises(InterfaceConnectionError, match="POST /channels/10/messages: 503") as caught:
            await post(rest)
        assert caught.value.status == 503 and not server.faults


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, InterfaceMessageError),
        (401, InterfaceAuthenticationError),
        (403, InterfaceMessageError),
        (404, InterfaceMessageError),
    ],
)
async def test_a_refusal_is_not_tried_again(status: int, error: type[InterfaceError]) -> None:
    async with DiscordServer().running() as server, open_rest(bot_for(server).config) as rest:
        server.fail_next("/messages", status, 500)
        with pytest.raises(error, match=f"{status} fault") as caught:
            await post(rest)
        assert caught.value.status == status and len(server.faults) == 1 and TOKEN not in str(caught.value)


async def test_a_bucket_is_never_overdrawn() -> None:
    async with DiscordServer().running() as server, open_rest(bot_for(server).config) as rest:
        server.per_window, server.window = 3, 0.2
        with anyio.fail_after(20):
            for number in range(10):
                await post(rest, str(number))
        assert [each.content for each in server.posted] == [str(number) for number in range(10)]
        assert server.violations == []


async def test_files_go_with_their_message() -> None:
    async with DiscordServer().running() as server, open_rest(bot_for(server).config) as rest:
        (message,) = outgoing(InterfaceResponse("see"), None)
        server.fail_next("/messages", 500)
        await rest.create_message("10", message.body, [Upload("a.txt", b"\x00\xffabc", "text/plain")])
        (posted,) = server.posted
        assert (posted.content, posted.files) == ("see", {"a.txt": b"\x00\xffabc"})
        assert server.violations == []


async def test_an_image_is_fetched_once_its_user_was_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("definable.agent.interface.http_client.DOWNLOAD_BACKOFF", Backoff(0.01, max_tries=5))
    monkeypatch.setattr("definable.agent.interface.discord.attachments.MAX_IMAGE_SIZE", 10)
    async with DiscordServer().running() as server, open_rest(bot_for(server).config) as rest:
        small, large = (server.attach("a.png", content, "image/png")["url"] for content in (b"small", b"large" * 3))
        server.fail_next("a.png", 500, 503)
        said = InterfaceMessage("discord", "7", "10", "1", images=(Image(url=small), Image(url=large)))
        found = await completed(said, rest, with_audio=False)
        assert found.images == (Image(data=b"small"),)
        assert [(each.url, each.media_type) for each in found.files] == [(large, "image/png")]
        server.files.clear()
        gone = await completed(said, rest, with_audio=False)
        assert gone.images == () and [each.url for each in gone.files] == [small, large]
        assert server.violations == []
    with anyio.fail_after(20):
        async with open_rest(bot_for(server).config) as rest:
            with pytest.raises(InterfaceConnectionError, match="could not be fetched"):
                await rest.fetch(small, 10)


async def test_nobody_there() -> None:
    config = bot_for(DiscordServer(), base_url="http://127.0.0.1:9").config
    async with open_rest(config) as rest:
        with anyio.fail_after(30), pytest.raises(InterfaceConnectionError, match="ConnectError"):
            await rest.gateway()


async def test_a_page_in_place_of_the_gateway() -> None:
    async with DiscordServer().running() as server, open_rest(bot_for(server).config) as rest:
        server.faults.append(problem(200, b"<html>"))
        with pytest.raises(InterfaceConnectionError):
            await rest.gateway()


async def test_the_token_is_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with DiscordServer().running() as server:
        await posted_with(server, problem(500))
    assert caplog.text and TOKEN not in caplog.text


@pytest.mark.parametrize(
    ("headers", "body", "seconds", "is_global"),
    [
        ({}, b'{"retry_after": 2.5, "global": true}', 2.5, True),
        ({"retry-after": "7"}, b'{"message": "slower"}', 7.0, False),
        ({"retry-after": "soon"}, b'{"retry_after": "soon"}', 1.0, False),
        ({}, b"[]", 1.0, True),
    ],
)
def test_how_long_a_429_lasts(headers: dict[str, str], body: bytes, seconds: float, is_global: bool) -> None:
    error = error_of("POST /x", 429, headers, body)
    assert isinstance(error, DiscordRateLimitError)
    assert (error.retry_after, error.is_global) == (seconds, is_global)


@pytest.mark.parametrize(
    ("body", "id"),
    [(b'{"id": "17"}', "17"), (b'{"id": 17}', None), (b'{"id": "x"}', None), (b"[]", None), (b"<html>", None)],
)
def test_the_id_of_what_was_posted(body: bytes, id: str | None) -> None:
    assert read_id(body) == id
