"""Spans by the GenAI conventions, read back from the SDK's own exporter."""

import subprocess
import sys
from collections.abc import Iterator

import anyio
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from definable.agent import Agent, RunContext
from definable.agent.run.telemetry import NO_SPAN, chat_span, run_span, tool_span
from definable.agent.trigger import EventTrigger, Webhook
from definable.errors import ModelAuthenticationError, OutputTruncated
from definable.model import ModelReply, OfflineModel, ToolCall, Usage
from definable.testing import served

pytestmark = pytest.mark.anyio

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
"""The example of W3C Trace Context."""

PARENT_ID = "00f067aa0ba902b7"

TRACEPARENT = f"00-{TRACE_ID}-{PARENT_ID}-01"


class Spans:
    """The spans that have ended."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    def __iter__(self) -> Iterator[ReadableSpan]:
        return iter(self._exporter.get_finished_spans())

    def names(self) -> list[str]:
        return [span.name for span in self]

    def one(self, name: str) -> ReadableSpan:
        (span,) = [span for span in self if span.name == name]
        return span

    async def wait_for(self, name: str) -> ReadableSpan:
        with anyio.fail_after(10):
            while name not in self.names():
                await anyio.sleep(0.01)
        return self.one(name)


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spans]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)  # the API lets a program set it once
    yield Spans(exporter)
    provider.shutdown()


def is_child(span: ReadableSpan, parent: ReadableSpan) -> bool:
    return span.parent is not None and parent.context is not None and span.parent.span_id == parent.context.span_id


def add(a: int, b: int) -> int:
    """Add."""
    return a + b


def fail() -> None:
    """Fail."""
    raise RuntimeError("the user's own words")


async def test_a_run_is_a_tree_of_spans_with_its_tokens(spans: Spans) -> None:
    script = [
        ModelReply(
            tool_calls=(ToolCall("add", {"a": 1, "b": 2}, id="call_1"), ToolCall("add", {"a": 3, "b": 4}, id="call_2")),
            usage=Usage(10, 5, 4, 3),
            finish_reason="tool_calls",
        ),
        ModelReply("done", usage=Usage(20, 7), model="offline-2"),
    ]
    agent = Agent(OfflineModel(script), tools=[add], name="adder")
    output = await agent.arun("the user's secret", session_id="s1")

    run = spans.one("invoke_agent adder")
    assert run.parent is None
    assert run.kind is SpanKind.INTERNAL
    assert dict(run.attributes or {}) == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.provider.name": "definable.offline",
        "gen_ai.agent.name": "adder",
        "gen_ai.conversation.id": "s1",
        "gen_ai.request.model": "offline",
        "gen_ai.response.model": "offline-2",
        "gen_ai.usage.input_tokens": 30,
        "gen_ai.usage.output_tokens": 12,
        "gen_ai.usage.cache_read.input_tokens": 4,
        "gen_ai.usage.reasoning.output_tokens": 3,
        "definable.run.id": output.run_id,
    }
    first, second = [span for span in spans if span.name == "chat offline"]
    assert first.kind is second.kind is SpanKind.CLIENT
    assert first.attributes is not None
    assert first.attributes["gen_ai.operation.name"] == "chat"
    assert first.attributes["gen_ai.usage.input_tokens"] == 10
    assert first.attributes["gen_ai.usage.output_tokens"] == 5
    assert first.attributes["gen_ai.usage.cache_read.input_tokens"] == 4
    assert first.attributes["gen_ai.usage.reasoning.output_tokens"] == 3
    assert first.attributes["gen_ai.response.finish_reasons"] == ("tool_calls",)
    tools = [span for span in spans if span.name == "execute_tool add"]
    assert {(span.attributes or {})["gen_ai.tool.call.id"] for span in tools} == {"call_1", "call_2"}
    assert all(is_child(span, run) for span in (first, second, *tools))
    assert "secret" not in "".join(span.to_json() for span in spans)
    assert trace.get_current_span() is trace.INVALID_SPAN


async def test_a_streamed_run_has_the_same_spans(spans: Spans) -> None:
    agent = Agent("offline")
    async with agent.arun_stream("hi") as events:
        async for _ in events:
            pass
    assert is_child(spans.one("chat offline"), spans.one("invoke_agent agent"))


async def test_a_run_that_fails_has_spent_its_tokens(spans: Spans) -> None:
    agent = Agent(OfflineModel([ModelReply(usage=Usage(10, 5), content="half", finish_reason="length")]))
    with pytest.raises(OutputTruncated):
        await agent.arun("hi")
    attributes = spans.one("invoke_agent agent").attributes or {}
    assert (attributes["gen_ai.usage.input_tokens"], attributes["gen_ai.usage.output_tokens"]) == (10, 5)
    assert attributes["error.type"] == "definable.errors.OutputTruncated"
    assert (spans.one("chat offline").attributes or {})["gen_ai.response.finish_reasons"] == ("length",)


async def test_a_model_that_fails_is_an_error_of_call_and_run(spans: Spans) -> None:
    agent = Agent(OfflineModel([ModelAuthenticationError("the key is wrong", status=401)]))
    with pytest.raises(ModelAuthenticationError):
        await agent.arun("hi")
    for name in ("chat offline", "invoke_agent agent"):
        span = spans.one(name)
        assert span.status.status_code is StatusCode.ERROR
        assert (span.attributes or {})["error.type"] == "definable.errors.ModelAuthenticationError"
        assert span.events[0].name == "exception"


async def test_a_tool_that_fails_is_its_own_error_and_not_the_runs(spans: Spans) -> None:
    agent = Agent(OfflineModel([ModelReply(tool_calls=(ToolCall("fail"),)), "sorry"]), tools=[fail])
    await agent.arun("hi")
    assert spans.one("execute_tool fail").status.status_code is StatusCode.ERROR
    assert (spans.one("execute_tool fail").attributes or {})["error.type"] == "tool_error"
    assert spans.one("invoke_agent agent").status.status_code is StatusCode.UNSET
    assert "own words" not in spans.one("execute_tool fail").to_json()


async def test_a_cancelled_run_says_so(spans: Spans) -> None:
    agent = Agent(OfflineModel(latency=60))
    with anyio.move_on_after(0.05):
        await agent.arun("hi")
    run = spans.one("invoke_agent agent")
    assert run.status.status_code is StatusCode.ERROR
    assert run.status.description == "cancelled"
    assert "Cancelled" in str((run.attributes or {})["error.type"])


async def test_a_run_within_a_tool_is_a_part_of_its_trace(spans: Spans) -> None:
    inner = Agent("offline", name="inner")

    async def ask() -> str:
        """Ask."""
        return (await inner.arun("hi")).content

    outer = Agent(OfflineModel([ModelReply(tool_calls=(ToolCall("ask"),)), "done"]), tools=[ask], name="outer")
    await outer.arun("hi")
    assert is_child(spans.one("invoke_agent inner"), spans.one("execute_tool ask"))


async def test_a_webhook_continues_its_senders_trace(spans: Spans) -> None:
    agent = Agent("offline")

    @agent.on(Webhook("/github/{repo}"))
    async def on_push(event: object) -> str:
        return "hi"

    async with served(agent) as service:
        response = await service.client.post("/github/a", headers={"traceparent": TRACEPARENT})
        assert response.status_code == 200
        span = await spans.wait_for("POST /github/{repo}")
    assert span.kind is SpanKind.SERVER
    assert span.parent is not None
    assert (f"{span.parent.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE_ID, PARENT_ID)
    assert (span.attributes or {})["http.route"] == "/github/{repo}"
    assert (span.attributes or {})["http.request.method"] == "POST"
    assert is_child(spans.one("invoke_agent agent"), span)


async def test_an_accepted_webhook_continues_its_senders_trace_later(spans: Spans) -> None:
    agent = Agent("offline")

    @agent.on(Webhook("/later", respond="accept"))
    async def later(event: object) -> str:
        return "hi"

    async with served(agent) as service:
        response = await service.client.post("/later", headers={"traceparent": TRACEPARENT})
        assert response.status_code == 202
        span = await spans.wait_for("process POST /later")
    assert span.kind is SpanKind.CONSUMER
    assert f"{span.context.trace_id:032x}" == TRACE_ID if span.context else False
    assert (span.attributes or {})["messaging.operation.type"] == "process"


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
async def test_a_run_over_http_continues_its_senders_trace(spans: Spans, accept: str) -> None:
    headers = {"TraceParent": TRACEPARENT, "accept": accept}
    async with served(Agent("offline")) as service:
        response = await service.client.post("/run", json={"input": "hi"}, headers=headers)
        assert response.status_code == 200
        span = await spans.wait_for("invoke_agent agent")
    assert span.parent is not None
    assert (f"{span.parent.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE_ID, PARENT_ID)
    assert is_child(spans.one("chat offline"), span)


async def test_a_run_in_the_background_continues_its_senders_trace_later(spans: Spans) -> None:
    headers = {"traceparent": TRACEPARENT, "tracestate": "vendor=7", "prefer": "respond-async", "x-secret": "s"}
    agent = Agent("offline")
    seen: list[dict[str, str]] = []

    @agent.before_request
    async def look(context: RunContext) -> None:
        seen.append(dict(context.trigger.headers) if context.trigger else {})

    async with served(agent) as service:
        response = await service.client.post("/run", json={"input": "hi"}, headers=headers)
        assert response.status_code == 202
        span = await spans.wait_for("process POST /run")
    assert span.kind is SpanKind.CONSUMER
    assert span.parent is not None and span.context is not None
    assert (f"{span.parent.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE_ID, PARENT_ID)
    assert span.context.trace_state.get("vendor") == "7"
    assert is_child(spans.one("invoke_agent agent"), span)
    assert seen == [{"traceparent": TRACEPARENT, "tracestate": "vendor=7"}]


@pytest.mark.parametrize("prefer", ["", "respond-async"])
async def test_a_run_over_http_that_names_no_trace_begins_one(spans: Spans, prefer: str) -> None:
    async with served(Agent("offline")) as service:
        await service.client.post("/run", json={"input": "hi"}, headers={"prefer": prefer})
        await spans.wait_for("invoke_agent agent")
    assert [span.parent for span in spans if span.name != "chat offline"][-1] is None


async def test_where_nobody_traces_a_run_in_the_background_carries_no_headers() -> None:
    agent = Agent("offline")
    seen: list[object] = []

    @agent.before_request
    async def look(context: RunContext) -> None:
        seen.append(context.trigger and context.trigger.headers)

    headers = {"traceparent": TRACEPARENT, "prefer": "respond-async"}
    async with served(agent) as service:
        await service.client.post("/run", json={"input": "hi"}, headers=headers)
    assert seen == [None]


@pytest.mark.parametrize("header", ["", "not a traceparent", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
async def test_a_header_that_names_no_trace_begins_one(spans: Spans, header: str) -> None:
    agent = Agent("offline")
    agent.on(Webhook("/x"))(lambda event: None)
    async with served(agent) as service:
        await service.client.post("/x", headers={"traceparent": header})
        span = await spans.wait_for("POST /x")
    assert span.parent is None


async def test_an_event_whose_handler_fails_is_an_error_of_its_span(spans: Spans) -> None:
    agent = Agent("offline")

    @agent.on(EventTrigger("user.*"))
    async def on_user(event: object) -> None:
        raise ValueError("no")

    async with agent.running(enable_server=False):
        await agent.aemit("user.new", {})
        span = await spans.wait_for("process event(user.*)")
    assert span.kind is SpanKind.CONSUMER
    assert (span.attributes or {})["error.type"] == "ValueError"
    assert (span.attributes or {})["messaging.destination.name"] == "event(user.*)"


async def test_a_host_that_traces_its_requests_is_the_parent(spans: Spans) -> None:
    agent = Agent("offline")
    tracer = trace.get_tracer("host")
    with tracer.start_as_current_span("host"):
        await agent.arun("hi")
    assert is_child(spans.one("invoke_agent agent"), spans.one("host"))


async def test_without_a_tracer_provider_nothing_is_recorded() -> None:
    agent = Agent("offline")
    assert chat_span(agent.model, None) is NO_SPAN  # type: ignore[arg-type]
    assert run_span("agent", agent.model, None) is NO_SPAN  # type: ignore[arg-type]
    assert tool_span("add", "call_1") is NO_SPAN


def test_without_the_extra_agents_run_and_nothing_of_it_is_imported() -> None:
    code = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
from definable.agent import Agent
assert Agent("offline").run("hi").content == "hi"
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=30)
