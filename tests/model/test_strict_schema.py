"""Strict schemas, checked by the rules with which the loopback server plays OpenAI."""

from __future__ import annotations

from enum import Enum
from typing import Any

import pytest
from loopback.openai_rules import Refusal, check_strict
from pydantic import BaseModel, Field, HttpUrl

from definable.model.openai.strict_schema import inline_root, strict_schema


class Colour(Enum):
    RED = "red"


class Place(BaseModel):
    """Where."""

    name: str = Field(default="Rome", description="Of the place.")
    colour: Colour = Colour.RED


class Trip(BaseModel):
    places: list[Place]
    next: Trip | None = None
    default: int = 0


def test_pydantic_models_become_strict() -> None:
    schema = inline_root(Trip.model_json_schema())
    with pytest.raises(Refusal):
        check_strict(schema, "Trip")
    strict = strict_schema(schema)
    assert strict is not None
    check_strict(strict, "Trip")
    assert strict["type"] == "object"
    assert strict["required"] == strict["$defs"]["Trip"]["required"]
    assert strict["$defs"]["Trip"]["required"] == ["places", "next", "default"]
    assert strict["$defs"]["Place"]["properties"]["name"]["description"] == "Of the place."


class Open(BaseModel):
    scores: dict[str, int]


class Anything(BaseModel):
    value: Any


class Link(BaseModel):
    url: HttpUrl


@pytest.mark.parametrize(
    "schema",
    [
        Open.model_json_schema(),
        Anything.model_json_schema(),
        Link.model_json_schema(),
        {"type": "object"},
        {"type": "object", "properties": {"a": {"oneOf": [{"type": "string"}]}}},
        {"type": "object", "properties": {"a": {"type": "array", "prefixItems": [{"type": "string"}]}}},
    ],
)
def test_what_strict_mode_cannot_express_has_no_strict_schema(schema: dict[str, Any]) -> None:
    assert strict_schema(schema) is None


def test_the_schema_given_is_left_alone() -> None:
    schema = Trip.model_json_schema()
    strict_schema(schema)
    assert schema == Trip.model_json_schema()
