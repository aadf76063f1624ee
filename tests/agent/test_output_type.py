"""Structured output: validated, asked for once more, then a clear error."""

from dataclasses import dataclass
from datetime import date
from enum import Enum
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from definable.agent import Agent
from definable.errors import ConfigurationError, OutputValidationError
from definable.model import OfflineModel

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
    ],
)
async def test_a_fitting_reply_becomes_the_object(output_type: Any, reply: str, content: Any) -> None:
    model = OfflineModel([reply])
    output = await Agent(model, output_type=output_type).arun("go")
    assert output.content == content
    assert model.requests[0].output_schema is not None


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


async def test_a_type_that_cannot_be_validated_is_named_before_serving() -> None:
    class Opaque: ...

    with pytest.raises(ConfigurationError, match="Opaque"):
        async with Agent("offline", output_type=Opaque).running(enable_server=False):
            pass
