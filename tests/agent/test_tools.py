"""Tools: what becomes of a model's call, whatever the model and the function do."""

import asyncio
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import date
from enum import Enum
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, field_validator

from definable.agent import RunContext, Tool, ToolResult, tool
from definable.agent.tools.result import MAX_ERROR_LENGTH, MAX_PROBLEMS
from definable.agent.tools.tool import index_tools
from definable.concurrency.worker_thread import worker_threads
from definable.errors import ConfigurationError
from definable.model import Image, ToolDefinition

CONTEXT = RunContext(run_id="r1", session_id="s1", user_id="ada")

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)

flavour: ContextVar[str] = ContextVar("flavour", default="none")


@tool
async def add(a: int, b: int = 1) -> int:
    """Add two numbers."""
    return a + b


async def call(function: Callable[..., Any], arguments: str = "", **options: Any) -> ToolResult:
    return await Tool(function, **options).call(arguments, CONTEXT)


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO, "definable.agent.tools.tool"):
        yield caplog


def test_a_tool_is_what_its_function_says() -> None:
    assert add.name == "add"
    assert add.description == "Add two numbers."
    assert add.definition == ToolDefinition("add", "Add two numbers.", add.parameters)
    assert repr(add) == "<Tool add>"


def test_the_decorator_can_say_otherwise() -> None:
    @tool(name="sum-up", description="Sums.", timeout=3)
    def add(a: int) -> int:
        """Add."""
        return a

    assert (add.name, add.description, add.timeout) == ("sum-up", "Sums.", 3)


@pytest.mark.anyio
async def test_a_tool_is_still_the_function() -> None:
    assert await add(1, b=2) == 3


def test_a_tool_stays_the_same_tool() -> None:
    assert Tool.of(add) is add


@pytest.mark.anyio
async def test_a_decorated_method_is_a_tool_of_its_object() -> None:
    class Counter:
        def __init__(self) -> None:
            self.count = 0

        @tool(name="increase", timeout=5)
        async def more(self, by: int) -> int:
            """Count on."""
            self.count += by
            return self.count

        @classmethod
        @tool
        async def who(cls) -> str:
            return cls.__name__

        @staticmethod
        @tool
        async def static() -> str:
            return "static"

    assert isinstance(Counter.more, Tool)
    counter = Counter()
    assert (await counter.more.call('{"by": 2}', CONTEXT)).value == 2
    assert (counter.more.name, counter.more.timeout, list(counter.more.parameters["properties"])) == (
        "increase",
        5,
        ["by"],
    )
    assert await counter.more(3) == 5
    assert (await counter.static.call("", CONTEXT)).content == "static"
    assert (await Tool.of(counter.who).call("", CONTEXT)).content == "Counter"


@pytest.mark.parametrize("name", ["", "get weather", "größe", "a" * 65, "dots.are.not", "new\nline", "end\n"])
def test_a_name_that_no_provider_takes_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="is no tool's name"):
        tool(name=name)(lambda: None)


def test_a_lambda_needs_a_name() -> None:
    with pytest.raises(ConfigurationError, match="<lambda>"):
        Tool.of(lambda: None)


@pytest.mark.parametrize("thing", [None, 3, "add", {"type": "function"}])
def test_what_cannot_be_called_is_refused_at_once(thing: Any) -> None:
    with pytest.raises(ConfigurationError, match="is no tool"):
        Tool.of(thing)


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_a_timeout_that_cannot_be_is_refused(timeout: float) -> None:
    with pytest.raises(ConfigurationError, match="timeout"):
        tool(timeout=timeout)(lambda: None)


def test_tools_are_indexed_by_name() -> None:
    def subtract(a: int, b: int) -> int:
        return a - b

    index = index_tools([add, subtract])
    assert list(index) == ["add", "subtract"]
    assert index["add"] is add
    assert index_tools([]) == {}


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="two tools are named 'add'"):
        index_tools([add, tool(name="add")(print)])


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("arguments", "value"), [('{"a": 1, "b": 2}', 3), ('{"a": "41"}', 42), (' {"a": 1.0}\n', 2), ('{"a":1,"a":5}', 6)]
)
async def test_arguments_are_taken_as_models_send_them(arguments: str, value: int) -> None:
    assert await add.call(arguments, CONTEXT) == ToolResult(value, value=value)


PICTURES = {
    "image/png": b"\x89PNG\r\n\x1a\n...",
    "image/jpeg": b"\xff\xd8\xff\xe0...",
    "image/gif": b"GIF89a...",
    "image/webp": b"RIFF\x00\x00\x00\x00WEBPVP8 ",
}


@pytest.mark.anyio
@pytest.mark.parametrize("media_type", sorted(PICTURES))
async def test_an_image_may_be_a_result(media_type: str) -> None:
    image = Image(data=PICTURES[media_type], media_type=media_type)
    for value in (image.data, image, ToolResult("a chart", [image]), ToolResult("a chart", [PICTURES[media_type]])):
        result = await call(partial(lambda given: given, value), name="draw")
        assert result.media == (image,)
        assert result.error is None
        assert result.content in ("a chart", f"an image ({media_type})")


def test_the_content_of_a_result_may_be_anything() -> None:
    assert ToolResult({"a": 1}).content == '{"a":1}'
    assert ToolResult(None).content == "null"
    with pytest.raises(ValueError, match="no PNG"):
        ToolResult("a chart", [b"..."])


@pytest.mark.anyio
@pytest.mark.parametrize("arguments", ["", "  \n", "null", "{}"])
async def test_no_arguments_come_in_many_forms(arguments: str) -> None:
    assert (await call(lambda: "ok", arguments, name="ok")).content == "ok"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", ["a: required, but missing", "a, b (optional)"]),
        ('{"a": "x"}', ["a: input should be a valid integer", 'got "x"']),
        ('{"a": 1, "c": 2, "d": 3}', ["c: unknown", "d: unknown", "a, b (optional)"]),
        ('{"a": 1', ["not valid JSON", "line 1 column 7"]),
        ("[1, 2]", ["should be an object", "[1,2]"]),
        ('"a"', ["should be an object"]),
        ('{"a": null}', ["a: input should be a valid integer, got null"]),
        ('{"a": "' + "9" * 90 + 'x"}', ["9..."]),
        ("{'a': 1}", ["not valid JSON"]),
        ("[" * 5_000, ["not valid JSON"]),
    ],
)
async def test_bad_arguments_are_explained_to_the_model(arguments: str, words: list[str]) -> None:
    result = await add.call(arguments, CONTEXT)
    assert result.value is None
    assert result.error == result.content
    assert result.content.startswith("Invalid arguments for add: ")
    assert all(word in result.content for word in words), result.content
    assert "http" not in result.content
    assert len(result.content) < 300


@pytest.mark.anyio
async def test_a_users_validator_speaks_in_its_own_words() -> None:
    class Booking(BaseModel):
        nights: int

        @field_validator("nights")
        @classmethod
        def some(cls, value: int) -> int:
            if value < 1:
                raise ValueError("stay at least one night")
            return value

    async def book(booking: Booking) -> str:
        return "booked"

    result = await call(book, '{"booking": {"nights": 0}}')
    assert "booking.nights: stay at least one night, got 0" in result.content


@pytest.mark.anyio
async def test_a_validator_that_breaks_is_a_failure_of_the_tool() -> None:
    class Broken(BaseModel):
        x: int

        @field_validator("x")
        @classmethod
        def fail(cls, value: int) -> int:
            raise LookupError("no such validator")

    async def take(it: Broken) -> None: ...

    assert (await call(take, '{"it": {"x": 0}}')).error == "LookupError: no such validator"


@pytest.mark.anyio
async def test_many_problems_are_counted() -> None:
    async def total(numbers: list[int]) -> int:
        return sum(numbers)

    result = await call(total, json.dumps({"numbers": ["x"] * (MAX_PROBLEMS + 5)}))
    assert "; and 5 more" in result.content


@pytest.mark.anyio
@given(st.text() | JSON.map(json.dumps) | st.fixed_dictionaries({"a": JSON}).map(json.dumps))
async def test_no_arguments_break_a_call(arguments: str) -> None:
    result = await add.call(arguments, CONTEXT)
    assert (result.error is None) == isinstance(result.value, int)
    result.content.encode()


@pytest.mark.anyio
async def test_sync_tools_run_in_a_thread_and_async_ones_here() -> None:
    async def here() -> int:
        return threading.get_ident()

    def there() -> int:
        return threading.get_ident()

    assert (await call(here)).value == threading.get_ident()
    assert (await call(there)).value != threading.get_ident()


@pytest.mark.anyio
async def test_context_variables_are_visible_in_both() -> None:
    async def here() -> str:
        return flavour.get()

    def there() -> str:
        return flavour.get()

    flavour.set("plum")
    assert (await call(here)).content == "plum"
    assert (await call(there)).content == "plum"


@pytest.mark.anyio
async def test_an_awaitable_from_a_sync_function_is_awaited() -> None:
    def later(a: int) -> Any:
        return add(a)

    assert (await call(later, '{"a": 1}')).value == 2


@pytest.mark.anyio
async def test_the_run_context_is_injected() -> None:
    async def whoami(prefix: str, run: RunContext) -> str:
        return f"{prefix} {run.user_id}"

    assert (await call(whoami, '{"prefix": "I am"}')).content == "I am ada"


class Colour(str, Enum):  # noqa: UP042 - whose str() is not its value
    RED = "red"


class Address(BaseModel):
    street: str


@dataclass
class Point:
    x: int


class Opaque:
    def __str__(self) -> str:
        return "opaque"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("value", "content"),
    [
        ("as it is: ü", "as it is: ü"),
        ("", ""),
        (None, "null"),
        (True, "true"),
        (3, "3"),
        ({"a": [1, None]}, '{"a":[1,null]}'),
        (Address(street="Main"), '{"street":"Main"}'),
        ([Point(1)], '[{"x":1}]'),
        (date(2026, 1, 2), '"2026-01-02"'),
        (Colour.RED, "red"),
        (b"bytes", '"bytes"'),
        ({"it": Opaque()}, '{"it":"opaque"}'),
        ("file\udcff", "file\ufffd"),
    ],
)
async def test_what_the_model_sees_of_a_value(value: Any, content: str) -> None:
    async def give() -> Any:
        return value

    result = await call(give)
    assert result.content == content
    assert result.value is value
    assert result.error is None


@pytest.mark.anyio
async def test_a_value_that_json_cannot_hold_is_an_error() -> None:
    async def give() -> Any:
        endless: list[Any] = []
        endless.append(endless)
        return endless

    result = await call(give)
    assert result.error is not None
    assert "ircular" in result.error


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("exception", "error"),
    [
        (ValueError("no such city"), "ValueError: no such city"),
        (RuntimeError(), "RuntimeError"),
        (SystemExit(1), "SystemExit: 1"),
        (ExceptionGroup("g", [ExceptionGroup("h", [OSError("disk full")])]), "OSError: disk full"),
        (ExceptionGroup("g", [OSError(), ValueError()]), "ExceptionGroup: g (2 sub-exceptions)"),
        (BaseExceptionGroup("g", [SystemExit(3)]), "SystemExit: 3"),
        (ValueError("x" * 9_999), f"ValueError: {'x' * MAX_ERROR_LENGTH}..."),
        (BaseExceptionGroup("g", [SystemExit(3), ValueError()]), "BaseExceptionGroup: g (2 sub-exceptions)"),
        (FileNotFoundError("a\udcff"), "FileNotFoundError: a\udcff"),
    ],
)
@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_an_exception_goes_back_to_the_model_and_to_the_log(
    exception: BaseException, error: str, kind: str, logged: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise exception

    async def fail_async() -> None:
        raise exception

    result = await call(fail if kind == "sync" else fail_async, name="fail")
    assert result.error == error
    result.content.encode()
    (record,) = logged.records
    assert record.getMessage() == "tool fail failed"
    assert record.exc_info is not None
    assert record.exc_info[1] is exception


@pytest.mark.anyio
async def test_stop_iteration_is_an_error_like_any_other() -> None:
    async def fail_async() -> None:
        next(iter(()))

    def fail() -> None:
        next(iter(()))

    assert "StopIteration" in ((await call(fail_async)).error or "")
    assert "StopIteration" in ((await call(fail)).error or "")


@pytest.mark.anyio
async def test_an_exception_that_cannot_be_written_is_named() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ZeroDivisionError

    async def fail() -> None:
        raise Mute

    logging.disable()
    try:
        assert (await call(fail)).error == "Mute: <its message cannot be shown: its __str__ failed>"
    finally:
        logging.disable(logging.NOTSET)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["trio"])  # asyncio's event loop ends, whatever one does
async def test_exit_in_a_tools_own_task_ends_nothing_but_the_call() -> None:
    async def leave() -> None:
        sys.exit(7)

    async def fan_out() -> None:
        async with anyio.create_task_group() as tg:
            tg.start_soon(leave)

    assert (await call(fan_out)).error == "SystemExit: 7"


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # trio lets nobody make one
async def test_the_cancellation_of_another_task_is_an_error_like_any_other() -> None:
    async def wait_for_the_dead() -> None:
        task = asyncio.ensure_future(asyncio.sleep(60))
        task.cancel()
        await task

    assert (await call(wait_for_the_dead)).error == "CancelledError"


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("timeout", [None, 60])
async def test_the_cancellation_of_the_callers_own_task_passes_through(timeout: float | None) -> None:
    async def wait() -> None:
        await anyio.sleep_forever()

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(call(wait, timeout=timeout), 0.01)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await call(wait, timeout=timeout)


@pytest.mark.anyio
async def test_keyboard_interrupt_passes_through() -> None:
    async def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await call(interrupted)


@pytest.mark.anyio
@pytest.mark.parametrize("timeout", [None, 60])
async def test_cancellation_passes_through(timeout: float | None) -> None:
    async def wait() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            cleaned.append(True)

    cleaned: list[bool] = []
    with anyio.move_on_after(0.01) as scope:
        await call(wait, timeout=timeout)
    assert scope.cancelled_caught
    assert cleaned == [True]


@pytest.mark.anyio
async def test_cancellation_beside_other_failures_passes_through() -> None:
    async def fail_when_cancelled() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise BaseExceptionGroup("mixed", [KeyboardInterrupt(), ValueError()])

    with pytest.raises(BaseExceptionGroup), anyio.move_on_after(0.01):
        await call(fail_when_cancelled)


@pytest.mark.anyio
async def test_a_timeout_is_told_to_the_model(logged: pytest.LogCaptureFixture) -> None:
    async def wait() -> None:
        await anyio.sleep_forever()

    result = await call(wait, timeout=0.01)
    assert result.error == "wait timed out after 0.01 s"
    assert [record.getMessage() for record in logged.records] == ["tool wait timed out after 0.01 s"]


@pytest.mark.anyio
async def test_a_stuck_sync_tool_times_out_and_is_accounted_for() -> None:
    release = threading.Event()

    def stuck() -> None:
        release.wait(10)

    assert (await call(stuck, timeout=0.05)).error == "stuck timed out after 0.05 s"
    assert [running.function.rpartition(".")[2] for running in worker_threads().running()] == ["stuck"]
    release.set()
    assert await worker_threads().wait_idle(10) == []


@pytest.mark.anyio
async def test_a_tools_own_timeout_error_is_its_own() -> None:
    async def fail() -> None:
        raise TimeoutError("upstream")

    assert (await call(fail, timeout=60)).error == "TimeoutError: upstream"


@pytest.mark.anyio
async def test_a_function_that_no_model_can_call_is_the_users_mistake() -> None:
    def take(*values: int) -> None: ...

    with pytest.raises(ConfigurationError):
        await call(take)


@pytest.mark.anyio
async def test_constraints_are_checked() -> None:
    async def book(nights: int = Field(ge=1, le=30)) -> int:
        return nights

    assert (await call(book, '{"nights": 30}')).value == 30
    assert "less than or equal to 30" in (await call(book, '{"nights": 31}')).content


def test_making_tools_loads_no_schema_machinery() -> None:
    code = """
import sys
from definable.agent.tools.tool import index_tools, tool
def f(x: int): ...
index_tools([f, tool(name="g")(f)])
print(*sorted(sys.modules))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "definable.agent.tools.tool" in found
    assert not {"pydantic.main", "pydantic.type_adapter", "asyncio", "trio"} & set(found)
