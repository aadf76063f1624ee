"""Structured output: validated, asked for once more, then a clear error."""

from dataclasses import dataclass
from datetime import date
from enum import Enum
from typing import Any, Literal, cast

import pytest
from pydantic import BaseModel

from definable.agent import Agent
from definable.errors import ConfigurationError, ModelError, OutputTruncated, OutputValidationError
from definable.model import Message, ModelReply, ModelRequest, OfflineModel, ToolCall

pytestmark = pytest.mark.anyio


class City(BaseModel):
    name: str
    people: int


@dataclass
class Point:
    x: int
    y: int


class Color(Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("output_type", "reply", "content"),
    [
        (City, '{"name": "Oslo", "people": 700000}', City(name="Oslo", people=700000)),
        (City, '```json\n{"name": "Oslo", "people": 1}\n```', City(name="Oslo", people=1)),
        (Point, '{"x": 1, "y": 2}', Point(1, 2)),
        (list[int], "[1, 2]", [1, 2]),
        (int, "7", 7),
        (str, "plain", "plain"),
        (str, '"quoted"', '"quoted"'),
        (Color, "red", Color.RED),
        (Color, '"red"', Color.RED),
        (Literal["red", "green"], '```json\n"green"\n```', "green"),
        (date, '"2024-02-29"', date(2024, 2, 29)),
        (date, '{"answer": "2024-02-29"}', date(2024, 2, 29)),
        (City, '<think>\nA city {big}\n</think>\n\n{"name": "Oslo", "people": 1}', City(name="Oslo", people=1)),
        (City, 'Here:\n```json\n{"name": "Oslo", "people": 1}\n```\nThat is it.', City(name="Oslo", people=1)),
        (City, '```{"name": "Oslo", "people": 1}```', City(name="Oslo", people=1)),
        (City, 'Sure: {"name": "Oslo", "people": 1}', City(name="Oslo", people=1)),
        (City | Point, '{"answer": {"x": 1, "y": 2}}', Point(1, 2)),
        (City | Point, '{"x": 1, "y": 2}', Point(1, 2)),
        (City | None, "null", None),
        (list[City], 'These: [{"name": "Oslo", "people": 1}]', [City(name="Oslo", people=1)]),
        (list[int], '{"answer": [1, 2]}', [1, 2]),
        (str | int, '{"answer": "seven"}', "seven"),
    ],
)
async def test_a_fitting_reply_becomes_the_object(output_type: Any, reply: str, content: Any) -> None:
    model = OfflineModel([reply])
    output = await Agent(model, output_type=output_type).arun("go")
    assert output.content == content
    schema = model.requests[0].output_schema
    assert (schema is None) == (output_type is str)
    assert schema is None or schema.schema["type"] == "object"


async def test_a_reply_that_does_not_fit_is_asked_for_once_more_with_the_reason() -> None:
    model = OfflineModel(['{"name": "Oslo"}', '{"name": "Oslo", "people": 1}'])
    output = await Agent(model, output_type=City).arun("go")
    assert output.content == City(name="Oslo", people=1)
    asked = model.requests[1].messages[-1]
    assert asked.role == "user"
    assert "people" in asked.content


async def test_a_second_misfit_is_a_clear_error() -> None:
    model = OfflineModel("not json")
    with pytest.raises(OutputValidationError, match="City"):
        await Agent(model, output_type=City).arun("go")
    assert len(model.requests) == 2


async def test_a_misfit_in_the_last_turn_is_a_clear_error() -> None:
    with pytest.raises(OutputValidationError, match="max_turns=1 leaves no turn to ask once more: 1 validation error"):
        await Agent(OfflineModel('"many"'), output_type=int, max_turns=1).arun("go")


class Profiled(OfflineModel):
    def __init__(self, *replies: str | ModelReply, tools: bool, native: bool, native_with_tools: bool) -> None:
        super().__init__(replies)
        self.profile = Profile(tools, native, native_with_tools)


@dataclass
class Profile:
    tools: bool
    json_schema: bool
    json_schema_with_tools: bool


def look() -> str:
    return "seen"


OSLO = '{"name": "Oslo", "people": 1}'


@pytest.mark.parametrize(
    ("profile", "tools", "mode"),
    [
        ((True, True, True), [look], "native"),
        ((True, True, False), [], "native"),
        ((True, True, False), [look], "tool"),
        ((True, False, False), [], "tool"),
        ((False, False, False), [], "prompt"),
    ],
)
async def test_the_model_is_asked_in_the_way_that_its_profile_knows(
    profile: tuple[bool, bool, bool], tools: list[Any], mode: str
) -> None:
    names = dict(zip(("tools", "native", "native_with_tools"), profile, strict=True))
    asked: dict[str, ModelRequest] = {}
    for chosen in ("auto", mode):
        reply = ModelReply(tool_calls=(ToolCall("final_answer", OSLO),)) if mode == "tool" else OSLO
        model = Profiled(reply, **names)
        agent = Agent(model, "Be brief.", tools, output_type=City, output_mode=cast("Any", chosen))
        assert (await agent.arun("go")).content == City(name="Oslo", people=1)
        asked[chosen] = model.requests[0]
    request = asked["auto"]
    assert request == asked[mode]
    assert (request.output_schema is not None) == (mode == "native")
    assert ("final_answer" in [tool.name for tool in request.tools]) == (mode == "tool")
    systems = [message.content for message in request.messages if message.role == "system"]
    assert len(systems) == 1
    assert systems[0].startswith("Be brief.")
    assert ('"people"' in systems[0]) == (mode == "prompt")


async def test_an_answer_that_is_a_call_is_kept_as_text() -> None:
    calls = (ToolCall("look"), ToolCall("final_answer", OSLO))
    model = OfflineModel([ModelReply(tool_calls=calls), "and then?"])
    agent = Agent(model, tools=[look], output_type=City, output_mode="tool")
    output = await agent.arun("go", session_id="s")
    assert output.content == City(name="Oslo", people=1)
    assert output.messages[1:] == (Message("assistant", OSLO),)
    assert output.tool_calls == ()  # the answer was there: nothing else is done
    with pytest.raises(ModelError, match="exhausted"):
        await agent.arun("again", session_id="s")
    assert [message.role for message in model.requests[1].messages[1:]] == ["user", "assistant", "user"]


async def test_a_call_that_does_not_fit_is_asked_for_once_more() -> None:
    wrong = ModelReply(tool_calls=(ToolCall("final_answer", '{"name": 1}', id="a"), ToolCall("look", id="b")))
    model = OfflineModel([wrong, ModelReply(tool_calls=(ToolCall("final_answer", OSLO),))])
    output = await Agent(model, tools=[look], output_type=City, output_mode="tool").arun("go")
    assert output.content == City(name="Oslo", people=1)
    results = {
        message.tool_call_id: message.content for message in model.requests[1].messages if message.role == "tool"
    }
    assert results.keys() == {"a", "b"}
    assert "people" in results["a"]


async def test_a_truncation_is_not_paid_for_twice() -> None:
    model = OfflineModel(ModelReply('{"name": "Os', finish_reason="length"))
    with pytest.raises(OutputTruncated):
        await Agent(model, output_type=City).arun("go")
    assert len(model.requests) == 1


async def test_a_function_is_no_type() -> None:
    async def make(city: str) -> str:
        raise AssertionError(city)

    with pytest.raises(ConfigurationError, match=r"output_type=<function .*make.*a type, not a function"):
        await Agent("offline", output_type=make).arun("go")


async def test_a_type_that_cannot_be_validated_is_named_before_serving() -> None:
    class Opaque: ...

    with pytest.raises(ConfigurationError, match="Opaque"):
        async with Agent("offline", output_type=Opaque).running(enable_server=False):
            pass
