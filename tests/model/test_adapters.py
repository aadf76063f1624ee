"""Agents of other frameworks as models: each of the real package, asking a server over real sockets."""

from __future__ import annotations

import contextvars
import gc
import json
import os
import random
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from importlib.util import find_spec
from typing import Any

import anyio
import httpx2
import openai
import pytest
from loopback.openai_server import BrokenStream, Completion, OpenAIServer, Problem
from orphans import living_threads

from definable.agent import Agent, TextDelta
from definable.agent.interface import Accept, BaseInterface, InterfaceConfig, InterfaceMessage, InterfaceResponse
from definable.agent.trigger import TriggerEvent, Webhook
from definable.errors import (
    ConfigurationError,
    ModelAuthenticationError,
    ModelConnectionError,
    ModelError,
    ModelRateLimitError,
    ModelRequestError,
    ModelResponseError,
    ModelTimeoutError,
    RunTimeout,
)
from definable.model import FallbackModel, Image, Message, Model, ModelRequest
from definable.model.adapters import LangChainRunnable, OpenAIAgentsAgent, PydanticAIAgent
from definable.model.message import message_from_json, message_to_json

pytestmark = pytest.mark.anyio

seen: contextvars.ContextVar[str] = contextvars.ContextVar("seen", default="nothing")


def add(first: int, second: int) -> int:
    """Add two numbers."""
    return first + second


class Framework:
    """One framework's agent, asking a server.

    Args:
        server: Whom it asks.
        prompt: Its own system prompt.
    """

    def __init__(self, server: OpenAIServer, prompt: str = "Be brief.") -> None:
        self.server = server
        self.prompt = prompt

    def client(self) -> openai.AsyncOpenAI:
        http = httpx2.AsyncClient(limits=httpx2.Limits(max_keepalive_connections=0))
        return openai.AsyncOpenAI(api_key=self.server.key, base_url=self.server.url, max_retries=0, http_client=http)


class OfPydanticAI(Framework):
    def model(self) -> PydanticAIAgent:
        from pydantic_ai import Agent
        from pydantic_ai.models.openai import OpenAIChatModel
        from pydantic_ai.providers.openai import OpenAIProvider

        model = OpenAIChatModel("gpt-4o", provider=OpenAIProvider(openai_client=self.client()))
        agent = Agent(model, name="pydantic", system_prompt=self.prompt, tools=[add])
        return PydanticAIAgent(agent)


class OfOpenAIAgents(Framework):
    def model(self) -> OpenAIAgentsAgent:
        import agents

        model = agents.OpenAIChatCompletionsModel("gpt-4o", openai_client=self.client())
        settings = agents.ModelSettings(include_usage=True)
        tools = [agents.function_tool(add)]
        agent = agents.Agent("openai", instructions=self.prompt, model=model, model_settings=settings, tools=tools)
        return OpenAIAgentsAgent(agent, run_config=agents.RunConfig(tracing_disabled=True))


class OfLangChain(Framework):
    def model(self) -> LangChainRunnable:
        from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
        from langchain_core.runnables import RunnableGenerator

        client = self.client()

        async def ask(inputs: AsyncIterator[Any]) -> AsyncGenerator[Any]:
            from langchain_core.messages import AIMessageChunk, convert_to_openai_messages

            async for prompt in inputs:
                messages: Any = convert_to_openai_messages(prompt.to_messages())
                options: Any = {"stream": True, "stream_options": {"include_usage": True}}
                async with await client.chat.completions.create(model="gpt-4o", messages=messages, **options) as chunks:
                    async for chunk in chunks:
                        used = chunk.usage
                        usage: Any = used and {
                            "input_tokens": used.prompt_tokens,
                            "output_tokens": used.completion_tokens,
                            "total_tokens": used.total_tokens,
                        }
                        text = chunk.choices[0].delta.content if chunk.choices else ""
                        yield AIMessageChunk(
                            text or "", usage_metadata=usage, response_metadata={"model_name": chunk.model}
                        )

        prompt = ChatPromptTemplate([("system", self.prompt), MessagesPlaceholder("messages")])
        chain = prompt | RunnableGenerator(ask)
        return LangChainRunnable(chain, id="langchain", input=lambda messages: {"messages": messages})


class OfLangGraph(Framework):
    """A graph with a node that asks a chat model, as the docstring of `LangChainRunnable` has it."""

    def model(self) -> LangChainRunnable:
        from langchain_core.language_models.chat_models import BaseChatModel
        from langchain_core.messages import AIMessageChunk, SystemMessage, convert_to_openai_messages
        from langchain_core.outputs import ChatGenerationChunk
        from langgraph.graph import START, MessagesState, StateGraph

        client, prompt = self.client(), SystemMessage(self.prompt)

        class Chat(BaseChatModel):
            @property
            def _llm_type(self) -> str:
                return "loopback"

            def _generate(self, *args: Any, **options: Any) -> Any:
                raise NotImplementedError

            async def _astream(self, messages: Any, *args: Any, **options: Any) -> AsyncGenerator[ChatGenerationChunk]:
                given: Any = convert_to_openai_messages(messages)
                wanted: Any = {"stream": True, "stream_options": {"include_usage": True}}
                async with await client.chat.completions.create(model="gpt-4o", messages=given, **wanted) as chunks:
                    async for chunk in chunks:
                        used, text = chunk.usage, chunk.choices[0].delta.content if chunk.choices else ""
                        usage: Any = used and {
                            "input_tokens": used.prompt_tokens,
                            "output_tokens": used.completion_tokens,
                            "total_tokens": used.total_tokens,
                        }
                        piece = AIMessageChunk(
                            text or "", usage_metadata=usage, response_metadata={"model_name": chunk.model}
                        )
                        yield ChatGenerationChunk(message=piece)

        chat = Chat()

        async def answer(state: MessagesState) -> dict[str, Any]:
            return {"messages": [await chat.ainvoke([prompt, *state["messages"]])]}

        answer.__annotations__ = {"state": MessagesState, "return": dict[str, Any]}  # it resolves names of the module
        builder = StateGraph(MessagesState)
        builder.add_node("answer", answer)
        builder.add_edge(START, "answer")
        return LangChainRunnable(
            builder.compile(),
            id="langgraph",
            input=lambda messages: {"messages": messages},
            output=lambda chunk: chunk[0],
            stream_mode="messages",
        )


APART = pytest.mark.skipif(find_spec("agents") is None, reason="openai-agents is installed apart: see .ci/run")

FRAMEWORKS = [
    pytest.param(OfPydanticAI, id="pydantic-ai"),
    pytest.param(OfOpenAIAgents, id="openai-agents", marks=APART),
    pytest.param(OfLangChain, id="langchain"),
    pytest.param(
        OfLangGraph,
        id="langgraph",
        marks=pytest.mark.skipif(find_spec("langgraph") is None, reason="langgraph is no part of the extra `test`"),
    ),
]
WITH_TOOLS = FRAMEWORKS[:2]


@asynccontextmanager
async def asking(kind: type[Any], **options: Any) -> AsyncGenerator[tuple[OpenAIServer, Any]]:
    """A server and a model of a framework that asks it; no thread is left once the model is closed."""
    before = living_threads()
    async with OpenAIServer().running() as server:
        model = kind(server, **options).model()
        with anyio.fail_after(40):
            yield server, model
            await model.aclose()
            await server.idle()
    assert {thread for thread in living_threads() - before if "definable" in thread.name} == set()


def said_to(server: OpenAIServer, request: int = -1) -> list[tuple[str, Any]]:
    return [(message["role"], message.get("content")) for message in server.received[request].body["messages"]]


@pytest.mark.parametrize("kind", FRAMEWORKS)
async def test_it_answers_whole_and_in_pieces(kind: type[Any]) -> None:
    async with asking(kind) as (server, model):
        assert isinstance(model, Model)
        server.play(Completion("good morning"), Completion("one two three"))
        agent = Agent(model, instructions="You are polite.")
        output = await agent.arun("hello")
        assert output.content == "good morning"
        assert (output.usage.input_tokens, output.usage.output_tokens) == (9, 12)
        assert output.model in ("gpt-4o", "gpt-4o-2024-08-06")
        told = said_to(server)
        assert {text for role, text in told if role in ("system", "developer")} == {"Be brief.", "You are polite."} or (
            "Be brief." in str(told) and "You are polite." in str(told)
        )
        assert told[-1] == ("user", "hello")
        async with agent.arun_stream("count") as events:
            texts = [event.text async for event in events if isinstance(event, TextDelta)]
        assert texts == ["one ", "two ", "three"]


@pytest.mark.parametrize("kind", FRAMEWORKS)
async def test_a_session_goes_on(kind: type[Any]) -> None:
    async with asking(kind) as (server, model):
        server.play(Completion("Hello Ann"), Completion("Ann"))
        agent = Agent(model)
        await agent.arun("I am Ann", session_id="s")
        assert (await agent.arun("Who am I?", session_id="s")).content == "Ann"
        told = [(role, text) for role, text in said_to(server) if role != "system"]
        assert told == [("user", "I am Ann"), ("assistant", "Hello Ann"), ("user", "Who am I?")]
        assert ("system", "Be brief.") in said_to(server)


@pytest.mark.parametrize("kind", WITH_TOOLS)
async def test_its_own_tool_calls_stay_in_the_conversation(kind: type[Any]) -> None:
    async with asking(kind) as (server, model):
        call = ("call_1", "add", json.dumps({"first": 2, "second": 3}))
        server.play(Completion(calls=[call]), Completion("It is 5."), Completion("You are welcome."))
        asked = Message("user", "2 + 3?")
        reply = await model.reply(ModelRequest((asked,)))
        assert (reply.content, reply.usage.input_tokens) == ("It is 5.", 18)
        kept = Message("assistant", reply.content, provider=reply.provider, provider_data=reply.provider_data)
        kept = message_from_json(json.loads(json.dumps(message_to_json(kept))))  # as a store keeps it
        await model.reply(ModelRequest((asked, kept, Message("user", "Thanks"))))
        roles = [role for role, _ in said_to(server) if role != "system"]
        assert roles == ["user", "assistant", "tool", "assistant", "user"]
        assert ("tool", "5") in said_to(server)


@pytest.mark.parametrize("kind", FRAMEWORKS)
async def test_another_models_tool_calls_are_left_out(kind: type[Any]) -> None:
    async with asking(kind) as (server, model):
        other = Message("assistant", "It is 5.", provider="openai", provider_data={"messages": [{"role": "mist"}]})
        await model.reply(ModelRequest((Message("user", "2 + 3?"), other, Message("user", "And 4 + 4?"))))
        told = [each for each in said_to(server) if each[0] != "system"]
        assert told == [("user", "2 + 3?"), ("assistant", "It is 5."), ("user", "And 4 + 4?")]


@pytest.mark.parametrize("kind", FRAMEWORKS)
async def test_it_is_shown_images(kind: type[Any]) -> None:
    async with asking(kind) as (server, model):
        images = (Image(data=b"\x89PNG"), Image(url="https://example.com/a.png"))
        await model.reply(ModelRequest((Message("user", "look", images=images),)))
        text, *shown = said_to(server)[-1][1]
        assert text["text"] == "look"
        assert [part["image_url"]["url"] for part in shown] == [
            "data:image/png;base64,iVBORw==",
            "https://example.com/a.png",
        ]


@pytest.mark.parametrize("kind", FRAMEWORKS)
async def test_its_failures_are_ours(kind: type[Any]) -> None:
    failures = {
        400: ModelRequestError,
        401: ModelAuthenticationError,
        429: ModelRateLimitError,
        503: ModelResponseError,
        504: ModelTimeoutError,
    }
    async with asking(kind) as (server, model):
        for status, expected in failures.items():
            server.play(Problem(status, "words of the provider"))
            with pytest.raises(ModelError, match="words of the provider") as caught:
                await Agent(model).arun("hi")
            assert (type(caught.value), caught.value.status) == (expected, status)


@pytest.mark.parametrize("kind", FRAMEWORKS)
async def test_another_model_answers_where_it_cannot(kind: type[Any]) -> None:
    async with asking(kind) as (server, model):
        server.play(Problem(503, "busy"))
        output = await Agent(FallbackModel(model, "offline")).arun("hi")
        assert (output.content, output.model) == ("hi", "offline")


@pytest.mark.parametrize("kind", FRAMEWORKS)
async def test_a_provider_that_is_away_is_a_connection_failure(kind: type[Any]) -> None:
    async with asking(kind) as (server, _):
        server.url = "http://127.0.0.1:1/v1"
        away = kind(server).model()
        with pytest.raises(ModelConnectionError):
            await away.reply(ModelRequest((Message("user", "hi"),)))
        await away.aclose()


async def collect_garbage() -> None:
    while True:
        gc.collect()
        await anyio.sleep(0.2)


@pytest.mark.parametrize("kind", FRAMEWORKS)
async def test_a_cut_off_run_hangs_up(kind: type[Any]) -> None:
    async with asking(kind) as (server, model):
        server.play(BrokenStream(Completion("one two three"), 3, "stall"))
        texts: list[str] = []
        async with Agent(model).arun_stream("hi") as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    texts.append(event.text)
                if texts == ["one ", "two "]:
                    break
        async with anyio.create_task_group() as collector:
            collector.start_soon(collect_garbage)  # which closes what the frameworks leave open
            await server.idle()
            collector.cancel_scope.cancel()
        server.play(BrokenStream(Completion("one"), 1, "stall"))
        with pytest.raises(RunTimeout):
            await Agent(model, run_timeout=0.3).arun("hi")
        await server.idle()


CANCELLATIONS = int(os.environ.get("DEFINABLE_CANCELLATIONS", "3"))
"""Runs that are cut off at random moments."""


@pytest.mark.parametrize("kind", FRAMEWORKS)
async def test_runs_that_are_cut_off_at_any_moment_leave_nothing(kind: type[Any]) -> None:
    """No connection, no thread (`asking`), no task: the runs after them are answered."""
    chance = random.Random(19)
    async with asking(kind) as (server, model):
        agent = Agent(model)
        server.play(Completion("warm"))
        began = anyio.current_time()
        assert (await agent.arun("hi", session_id="s")).content == "warm"
        whole = anyio.current_time() - began
        for _ in range(CANCELLATIONS):
            server.play(BrokenStream(Completion("one two three"), chance.randrange(5), "stall"))
            with anyio.move_on_after(chance.uniform(0, 2 * whole)):
                if chance.random() < 0.5:
                    await agent.arun("hi", session_id="s")
                else:
                    async with agent.arun_stream("hi", session_id="s") as events:
                        _ = [event async for event in events]
            server.forget()  # it may have been cut off before it asked
        async with anyio.create_task_group() as collector:
            collector.start_soon(collect_garbage)  # which closes what the frameworks leave open
            await server.idle()
            collector.cancel_scope.cancel()
        server.play(Completion("still there"))
        assert (await agent.arun("hi", session_id="s")).content == "still there"


@pytest.mark.parametrize("kind", FRAMEWORKS)
async def test_tools_of_ours_are_refused(kind: type[Any]) -> None:
    async with asking(kind) as (_, model):
        with pytest.raises(ModelRequestError, match="it has those of its own framework"):
            await Agent(model, tools=[add]).arun("hi")


def test_what_is_no_agent_is_refused_at_once() -> None:
    for adapter in (PydanticAIAgent, OpenAIAgentsAgent, LangChainRunnable):
        with pytest.raises(ConfigurationError, match="takes a"):
            adapter("gpt-4o")  # pyright: ignore[reportArgumentType]


async def test_a_typed_output_is_its_json() -> None:
    from pydantic import BaseModel
    from pydantic_ai import Agent as Theirs
    from pydantic_ai.models.test import TestModel

    class City(BaseModel):
        name: str

    model = PydanticAIAgent(Theirs(TestModel(custom_output_args={"name": "Rome"}), output_type=City, name="x"))
    assert (await model.reply(HI)).content == '{"name":"Rome"}'
    async with Agent(model).arun_stream("where?") as events:
        texts = [event.text async for event in events if isinstance(event, TextDelta)]
    assert "".join(texts) == '{"name":"Rome"}'
    await model.aclose()


# --- where it runs


def chain(answer: Callable[[Any], AsyncGenerator[Any]], **options: Any) -> LangChainRunnable:
    """A model that streams what a generator function, on asyncio, makes of the conversation."""
    from langchain_core.runnables import RunnableGenerator

    async def transform(inputs: AsyncIterator[Any]) -> AsyncGenerator[Any]:
        async for conversation in inputs:
            async with aclosing(answer(conversation)) as pieces:
                async for piece in pieces:
                    yield piece

    return LangChainRunnable(RunnableGenerator(transform), **{"id": "chain"} | options)


HI = ModelRequest((Message("user", "hi"),))


async def test_all_of_a_service_run_on_asyncio_in_one_thread(anyio_backend_name: str) -> None:
    async def answer(conversation: Any) -> AsyncGenerator[str]:
        import asyncio

        assert asyncio.get_running_loop()
        yield f"{threading.get_ident()} {seen.get()}"

    before, models = living_threads(), [chain(answer), chain(answer)]
    seen.set("a variable of the caller's")
    answers = {(await model.reply(HI)).content for model in models}
    (said,) = answers
    number, _, variable = said.partition(" ")
    assert variable == "a variable of the caller's"
    assert (int(number) == threading.get_ident()) == (anyio_backend_name == "asyncio")
    assert len(living_threads() - before) == (anyio_backend_name == "trio")
    for model in models:
        await model.aclose()
    assert living_threads() - before == set()
    assert (await models[0].reply(HI)).content  # it may be used again
    await models[0].aclose()


def test_a_script_that_closes_nothing_leaves_no_thread() -> None:
    async def answer(conversation: Any) -> AsyncGenerator[str]:
        yield "hello"

    before = living_threads()
    for backend in ("trio", "asyncio"):
        assert anyio.run(chain(answer).reply, HI, backend=backend).content == "hello"
    assert living_threads() - before == set()


async def test_the_reader_holds_up_what_is_read() -> None:
    made: list[int] = []

    async def endless(conversation: Any) -> AsyncGenerator[str]:
        while True:
            made.append(1)
            yield "x"

    model = chain(endless)
    async with model.stream(HI) as deltas:
        for _ in range(100):
            await anext(deltas)
        for _ in range(50):
            await anyio.sleep(0.001)
        assert 100 <= len(made) <= 150
    await model.aclose()


async def test_a_group_of_errors_comes_as_one_of_ours() -> None:
    async def fail(conversation: Any) -> AsyncGenerator[str]:
        yield "a"
        raise BaseExceptionGroup("two", [SystemExit(3), ValueError("x")])

    model = chain(fail)
    with pytest.raises(ModelError, match="chain failed"):
        await Agent(model).arun("hi")
    await model.aclose()


async def test_what_ignores_its_cancellation_is_left_after_a_bound(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("definable.concurrency.asyncio_thread.CLOSE_TIMEOUT", 0.2)
    resumed, let_go = threading.Event(), threading.Event()

    async def stubborn(conversation: Any) -> AsyncGenerator[str]:
        import asyncio

        yield "a"
        resumed.set()
        while not let_go.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue

    model = chain(stubborn)
    async with model.stream(HI) as deltas:
        await anext(deltas)
        await anyio.to_thread.run_sync(resumed.wait, 10)  # a cancellation before that would end it at its yield
    assert "ignores its cancellation" in caplog.text
    let_go.set()
    monkeypatch.undo()
    await anyio.sleep(0.1)
    await model.aclose()


# --- served


class Desk(BaseInterface):
    """A chat whose messages a test hands in."""

    def __init__(self) -> None:
        super().__init__(InterfaceConfig(collect=0, platform="desk"))
        self.send_message, self.messages = anyio.create_memory_object_stream[InterfaceMessage](10)
        self.answers: list[str] = []
        self.answered = anyio.Event()

    async def receive(self, accept: Accept) -> None:
        async for message in self.messages:
            await accept(message)

    async def send(self, message: InterfaceMessage, response: InterfaceResponse) -> None:
        self.answers.append(response.content)
        self.answered.set()

    def say(self, text: str) -> None:
        self.send_message.send_nowait(InterfaceMessage("desk", "ann", "chat", text, text=text))


@pytest.mark.parametrize("kind", FRAMEWORKS)
async def test_it_is_served_to_webhooks_and_chats_and_drained(kind: type[Any]) -> None:
    desk, before = Desk(), living_threads()
    with anyio.fail_after(50), desk.send_message, desk.messages:
        async with OpenAIServer().running() as server:
            agent = Agent(kind(server).model())

            @agent.on(Webhook("/ask"))
            async def on_ask(event: TriggerEvent) -> str:
                return str(event.body["text"])

            async with agent.running(desk, host="127.0.0.1", port=0) as runtime:
                async with httpx2.AsyncClient(base_url=runtime.url or "") as client:
                    server.play(Completion("to the webhook"), Completion("to the chat"), Completion("after all"))
                    answer = await client.post("/ask", json={"text": "hi"})
                    assert answer.json()["content"] == "to the webhook"
                    desk.say("hello")
                    await desk.answered.wait()
                    assert desk.answers == ["to the chat"]
                    async with anyio.create_task_group() as group:
                        answers: list[str] = []

                        async def ask() -> None:
                            answers.append((await client.post("/ask", json={"text": "late"})).json()["content"])

                        group.start_soon(ask)
                        while len(server.received) < 3:
                            await anyio.sleep(0.01)
                        runtime.stop()
                    assert answers == ["after all"]
            assert runtime.report is not None
            assert runtime.report.clean
            await server.idle()
    assert {thread for thread in living_threads() - before if "definable" in thread.name} == set()


@pytest.mark.parametrize("kind", FRAMEWORKS)
async def test_a_run_of_it_is_cancelled_by_its_id_and_by_a_stop(kind: type[Any]) -> None:
    before = living_threads()
    with anyio.fail_after(50):
        async with OpenAIServer().running() as server:
            agent = Agent(kind(server).model())
            async with agent.running(host="127.0.0.1", port=0, shutdown_timeout=0.2) as runtime:
                async with httpx2.AsyncClient(base_url=runtime.url or "", timeout=30) as client:
                    server.play(*[BrokenStream(Completion("one two"), 2, "stall")] * 2)
                    async with anyio.create_task_group() as group:
                        statuses: list[int] = []

                        async def run() -> None:
                            statuses.append((await client.post("/run", json={"input": "hi"})).status_code)

                        group.start_soon(run)
                        while not (runs := (await client.get("/runs")).json()["runs"]) or not server.received:
                            await anyio.sleep(0.01)
                        await client.delete(f"/runs/{runs[0]['run_id']}")
                    assert statuses != [200]
                    await server.idle()
                    async with anyio.create_task_group() as group:
                        group.start_soon(run)
                        while len(server.received) < 2:
                            await anyio.sleep(0.01)
                        runtime.stop()
            assert runtime.report is not None
            assert not runtime.report.clean
            await server.idle()
    assert {thread for thread in living_threads() - before if "definable" in thread.name} == set()
