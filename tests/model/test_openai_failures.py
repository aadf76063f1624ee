"""Everything that goes wrong between `OpenAIChat` and a provider: one clear error each, in the provider's words."""

from __future__ import annotations

import gc
import os
import resource
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import anyio
import httpx2
import pytest
from loopback.openai_server import BrokenStream, Completion, Fault, Page, Problem

from definable.agent.runtime.http.response import problem_of
from definable.concurrency.backoff import Backoff
from definable.errors import (
    ModelAuthenticationError,
    ModelConnectionError,
    ModelError,
    ModelRateLimitError,
    ModelRequestError,
    ModelResponseError,
    ModelTimeoutError,
    TooManyOpenFiles,
)
from definable.model import Message, ModelRequest, OpenAIChat, failure
from definable.model.openai.errors import explain

pytestmark = pytest.mark.anyio

HI = ModelRequest((Message("user", "hi"),))


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, ModelRequestError),
        (403, ModelAuthenticationError),
        (404, ModelRequestError),
        (408, ModelTimeoutError),
        (409, ModelRequestError),
        (418, ModelRequestError),
        (422, ModelRequestError),
        (429, ModelRateLimitError),
        (500, ModelResponseError),
        (503, ModelResponseError),
        (504, ModelTimeoutError),
    ],
)
async def test_each_status_has_its_error(provider: Any, status: int, expected: type[ModelError]) -> None:
    async with provider(max_retries=0) as (server, model):
        server.play(Problem(status, "words of the provider"))
        with pytest.raises(expected, match="words of the provider") as caught:
            await model.reply(HI)
        assert caught.value.status == status
        assert server.url in str(caught.value)
        assert type(caught.value.__cause__).__module__.startswith("openai")


async def test_a_wrong_key_says_so_and_is_not_tried_again(provider: Any) -> None:
    async with provider(api_key="sk-wrong-1234") as (server, model):
        with pytest.raises(ModelAuthenticationError, match=r"Incorrect API key provided: .*check api_key="):
            await model.reply(HI)
        assert len(server.refusals) == 1


async def test_a_key_that_the_server_repeats_is_not_in_the_message(provider: Any) -> None:
    async with provider() as (server, model):
        server.play(Problem(403, f"the key {server.key} may not"))
        with pytest.raises(ModelAuthenticationError) as caught:
            await model.reply(HI)
        assert server.key not in str(caught.value)


async def test_an_unknown_model_says_so(provider: Any) -> None:
    async with provider(id="gpt-5000") as (_, model):
        with pytest.raises(ModelRequestError, match="The model `gpt-5000` does not exist") as caught:
            await model.reply(HI)
        assert caught.value.status == 404


async def test_tool_results_without_their_call_are_refused(provider: Any) -> None:
    async with provider() as (_, model):
        with pytest.raises(ModelRequestError, match="must be a response to a preceding message"):
            await model.reply(ModelRequest((*HI.messages, Message("tool", "3", tool_call_id="c1"))))


@pytest.mark.parametrize("answer", [Problem(408, "x"), Problem(409, "x"), Problem(429, "x"), Problem(502, "x")])
async def test_transient_failures_are_tried_again(provider: Any, answer: Problem) -> None:
    async with provider() as (server, model):
        server.play(answer, Fault("disconnect"), Completion("third try"))
        assert (await model.reply(HI)).content == "third try"
        assert len(server.received) == 3


async def test_retries_end(provider: Any) -> None:
    async with provider(max_retries=1) as (server, model):
        server.play(Problem(500, "first"), Problem(500, "second"), Completion("never"))
        with pytest.raises(ModelResponseError, match="second"):
            await model.reply(HI)
        assert len(server.received) == 2


async def test_a_used_up_quota_is_not_tried_again(provider: Any) -> None:
    async with provider() as (server, model):
        server.play(Problem(429, "You exceeded your current quota", code="insufficient_quota"))
        with pytest.raises(ModelRateLimitError, match="quota"):
            await model.reply(HI)
        assert len(server.received) == 1


async def test_the_provider_may_forbid_a_retry(provider: Any) -> None:
    async with provider() as (server, model):
        server.play(Problem(500, "do not", headers={"x-should-retry": "false"}))
        with pytest.raises(ModelResponseError):
            await model.reply(HI)
        assert len(server.received) == 1


async def test_a_long_retry_after_is_not_waited_for(provider: Any) -> None:
    async with provider() as (server, model):
        server.play(Problem(429, "slow down", headers={"retry-after": "90"}))
        with anyio.fail_after(5), pytest.raises(ModelRateLimitError) as caught:
            await model.reply(HI)
        assert caught.value.retry_after == 90
        assert len(server.received) == 1


async def test_a_pause_beyond_the_callers_deadline_is_not_waited_for(provider: Any) -> None:
    async with provider() as (server, model):
        server.play(Problem(429, "slow down", headers={"retry-after": "10"}))
        with anyio.fail_after(5), pytest.raises(ModelRateLimitError):
            await model.reply(HI)


async def test_a_retry_pause_can_be_cancelled(provider: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failure, "RETRY_BACKOFF", Backoff(initial=8.0))
    async with provider() as (server, model):
        server.play(Problem(500, "x"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(model.reply, HI)
            while not server.received:
                await anyio.lowlevel.checkpoint()
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        assert (await model.reply(HI)).content == "ok"


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_does_not_come_is_a_timeout(provider: Any, stream: bool) -> None:
    async with provider(timeout=0.4) as (server, model):
        await model.reply(HI)
        server.play(Fault("hang"))
        with pytest.raises(ModelTimeoutError, match=r"0\.4 s") as caught:
            await ask(model, stream)
        assert isinstance(caught.value, TimeoutError)
        assert len(server.received) == 2, "a timeout is not tried again"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_server_that_is_not_there_is_named(anyio_backend: str, stream: bool) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        model = OpenAIChat("gpt-4o", api_key="sk-x", base_url=url.replace("http://", "http://me:sk-pass@"))
        with anyio.fail_after(10), pytest.raises(ModelConnectionError, match=f"cannot reach {url}") as caught:
            await ask(model, stream)
        assert "sk-pass" not in str(caught.value)
        await model.aclose()


@pytest.fixture
def no_descriptors(anyio_backend: str) -> Iterator[Callable[[], None]]:
    """Takes all file descriptors of this process."""
    with ExitStack() as taken:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        taken.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))

        def take_all() -> None:
            used = max(int(fd) for fd in os.listdir("/proc/self/fd")) + 1
            resource.setrlimit(resource.RLIMIT_NOFILE, (used, hard))
            with suppress(OSError):
                while True:
                    taken.callback(os.close, os.dup(0))

        yield take_all


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("asked_before", [False, True])
async def test_no_descriptor_for_a_connection_is_said_and_not_laid_on_the_provider(
    anyio_backend: str, stream: bool, asked_before: bool, no_descriptors: Callable[[], None]
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        model = OpenAIChat("gpt-4o", api_key="sk-x", base_url=url, max_retries=0)
        if asked_before:  # so that there is a client, without a connection
            with pytest.raises(ModelConnectionError, match="cannot reach"):
                await ask(model, stream)
        no_descriptors()
        with anyio.fail_after(10), pytest.raises(TooManyOpenFiles, match=r"(?i)too many open files") as caught:
            await ask(model, stream)
        assert problem_of(caught.value).status == 503
        await model.aclose()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_connection_that_breaks_is_named(provider: Any, stream: bool) -> None:
    async with provider(max_retries=0) as (server, model):
        server.play(Fault("disconnect"))
        with pytest.raises(ModelConnectionError, match=f"the connection to {server.url} broke"):
            await ask(model, stream)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_web_page_is_named(provider: Any, stream: bool) -> None:
    async with provider() as (server, model):
        server.play(Page(b"<html><title>Welcome</title></html>"))
        with pytest.raises(ModelResponseError, match="a web page: check base_url"):
            await ask(model, stream)


async def test_a_proxys_error_page_is_quoted_by_its_title(provider: Any) -> None:
    async with provider(max_retries=0) as (server, model):
        server.play(Page(b"<html><head><title>502 Bad\nGateway</title></head>" + b"x" * 9_999, status=502))
        with pytest.raises(ModelResponseError, match="answered 502: an HTML page, '502 Bad Gateway'") as caught:
            await model.reply(HI)
        assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{not json", "no chat completion: {not json"),
        (b"[]", "no chat completion"),
        (b'{"choices": []}', "holds no choices"),
        (b"{}", "holds no choices"),
        (b'{"choices": [{"message": {"content": 7}}]}', "no chat completion"),
        (b'{"error": {"message": "deep trouble"}}', "deep trouble"),
        (b'{"error": "deep trouble"}', "deep trouble"),
        (
            b'{"choices": [{"finish_reason": "error", "message": {"role": "assistant", "content": ""}, '
            b'"error": {"code": 502, "message": "deep trouble"}}]}',
            "answered 502: deep trouble",
        ),
    ],
)
async def test_a_body_that_is_no_completion_is_an_error(provider: Any, body: bytes, words: str) -> None:
    async with provider(max_retries=0) as (server, model):
        server.play(Page(body, content_type="application/json"))
        with pytest.raises(ModelResponseError, match=words):
            await model.reply(HI)


@pytest.mark.parametrize(
    "body",
    [
        b'{"detail": "words"}',
        b'{"message": "words"}',
        b'{"error": "words"}',
        b"words",
        b'[{"error": {"code": 400, "message": "words"}}]',
        b'{"error": {"code": ["bad"], "message": "words"}}',
    ],
)
async def test_other_servers_error_shapes_are_read(provider: Any, body: bytes) -> None:
    async with provider(max_retries=0) as (server, model):
        server.play(Page(body, status=400, content_type="application/json"))
        with pytest.raises(ModelRequestError, match="answered 400: words"):
            await model.reply(HI)


async def test_the_top_of_the_traceback_is_ours(provider: Any) -> None:
    async with provider(max_retries=0) as (server, model):
        server.play(Problem(500, "inside"))
        with pytest.raises(ModelError) as caught:
            await model.reply(HI)
        last = traceback.format_exception_only(caught.value)[-1]
        assert last.startswith("definable.errors.ModelResponseError: http://127.0.0.1:")


@pytest.mark.parametrize("answer", [Fault("hang"), BrokenStream(Completion("x y"), 1, "stall")])
async def test_cancelled_calls_hang_up_and_leave_the_model_usable(provider: Any, answer: Any) -> None:
    async with provider() as (server, model):
        server.play(*[answer] * 20)
        with anyio.move_on_after(0.2):
            async with anyio.create_task_group() as tasks:
                for _ in range(20):
                    tasks.start_soon(ask, model, isinstance(answer, BrokenStream))
        await server.idle()
        server._answers.clear()
        assert (await model.reply(HI)).content == "ok"


@pytest.mark.parametrize("stream", [False, True])
async def test_cancelled_at_any_moment_it_leaves_the_model_usable(provider: Any, stream: bool) -> None:
    async with provider() as (server, model):
        await model.reply(HI)
        for milliseconds in range(25):
            server.play(Problem(503, "busy"), Completion("a b c d e f"))
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask, model, stream)
                await anyio.sleep(milliseconds / 2_000)
                tasks.cancel_scope.cancel()
            server._answers.clear()
        assert (await model.reply(HI)).content == "ok"


async def ask(model: OpenAIChat, stream: bool) -> None:
    if stream:
        async with model.stream(HI) as deltas:
            async for _ in deltas:
                pass
    else:
        await model.reply(HI)


# --- what a try may raise beside


@pytest.mark.parametrize(
    ("error", "expected", "words", "transient"),
    [
        (httpx2.ConnectTimeout(""), ModelConnectionError, "cannot reach http://x: no connection in time", True),
        (httpx2.PoolTimeout(""), ModelTimeoutError, "all connections to http://x were busy for 7 s", False),
        (httpx2.ReadTimeout(""), ModelTimeoutError, "http://x sent nothing new for 7 s", False),
        (httpx2.UnsupportedProtocol("no ftp"), ModelConnectionError, "cannot talk to http://x: no ftp", False),
        (httpx2.ProxyError(""), ModelConnectionError, "cannot reach http://x: ProxyError", True),
        (httpx2.DecodingError("no gzip"), ModelResponseError, "the answer of http://x cannot be read: no gzip", False),
    ],
)
def test_a_failed_try_is_explained(error: Exception, expected: type[ModelError], words: str, transient: bool) -> None:
    told = explain(error, where="http://x", keys=(), timeout=7)
    assert (type(told.error), str(told.error), told.transient) == (expected, words, transient)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [200, 400])
async def test_an_answer_that_cannot_be_decoded_is_a_clear_error_and_leaves_nothing_behind(
    provider: Any, stream: bool, status: int
) -> None:
    async with provider(max_retries=0) as (server, model):
        server.play(Page(b"no gzip", status, "application/json", {"content-encoding": "gzip"}))
        with pytest.raises(ModelError) as caught:
            await ask(model, stream)
        assert server.url in str(caught.value)
        del caught
        gc.collect()  # trio says there what was not closed


@pytest.mark.parametrize(
    ("base_url", "environment", "words"),
    [
        ("http://localhost:port/v1", {}, "Invalid port: 'port'"),
        (None, {"OPENAI_BASE_URL": "http://localhost/v1\n"}, "Invalid non-printable ASCII character in URL"),
        ("http://localhost/v1", {"ALL_PROXY": "gopher://localhost:1"}, "Unknown scheme for proxy URL"),
        ("http://localhost/v1", {"SSL_CERT_FILE": "/nowhere/ca.pem"}, "No such file or directory"),
    ],
)
async def test_what_no_client_can_be_made_of_is_a_clear_error(
    monkeypatch: pytest.MonkeyPatch, base_url: str | None, environment: dict[str, str], words: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ModelConnectionError, match=f"no client for gpt-4o can be made: .*{words}.*check base_url"):
        await OpenAIChat("gpt-4o", api_key="sk-x", base_url=base_url).reply(HI)
