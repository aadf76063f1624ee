"""From signatures and docstrings to what models see."""

from __future__ import annotations

import functools
import gc
import json
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional

import pytest
from pydantic import BaseModel, Field
from typing_extensions import Doc, TypedDict

from definable.agent import RunContext, Tool, tool
from definable.errors import ConfigurationError

if TYPE_CHECKING:
    from decimal import Decimal

CONTEXT = RunContext(run_id="r1", session_id="s1")


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Address(BaseModel):
    street: str
    number: int = 1


@dataclass
class Point:
    x: float
    y: float = 0.0


class Filters(TypedDict, total=False):
    tags: list[str]


class Node(BaseModel):
    value: int
    children: list[Node] = []


def schema(function: Callable[..., Any]) -> dict[str, Any]:
    return dict(Tool.of(function).parameters)


def properties(function: Callable[..., Any]) -> dict[str, Any]:
    return schema(function)["properties"]


def bind(function: Callable[..., Any], **arguments: Any) -> Any:
    """What `function` is called with for these arguments; every function here returns its `locals()`."""
    made = Tool.of(function)
    made.prepare()
    args, kwargs = made._analysed().bind(json.dumps(arguments), CONTEXT)  # pyright: ignore[reportPrivateUsage]
    return function(*args, **kwargs)


def test_a_signature_becomes_an_object_schema() -> None:
    def add(a: int, b: float = 2.5, *, exact: bool = False) -> float:
        """Add two numbers.

        Args:
            a: The first.
            exact: Whether to round.
        """
        return a + b

    made = Tool.of(add)
    assert made.description == "Add two numbers."
    assert made.parameters == {
        "type": "object",
        "properties": {
            "a": {"type": "integer", "description": "The first."},
            "b": {"type": "number", "default": 2.5},
            "exact": {"type": "boolean", "description": "Whether to round.", "default": False},
        },
        "required": ["a"],
        "additionalProperties": False,
    }


def test_a_function_without_parameters_takes_an_empty_object() -> None:
    def now() -> str:
        return ""

    assert schema(now) == {"type": "object", "properties": {}, "additionalProperties": False}


def test_the_body_of_the_docstring_is_part_of_the_description() -> None:
    def search(query: str) -> None:
        """Search.

        Only in titles.

        Args:
            query: Words.

        Returns:
            Nothing.
        """

    assert Tool.of(search).description == "Search.\n\nOnly in titles."


def test_the_schema_is_json() -> None:
    def book(on: date = date(2026, 1, 2), colour: Colour = Colour.RED, marker: object = object()) -> None: ...

    assert json.loads(json.dumps(schema(book)))["properties"]["on"]["default"] == "2026-01-02"
    assert schema(book)["properties"]["colour"]["default"] == "red"


def test_an_unannotated_parameter_takes_anything() -> None:
    def echo(it, times=2): ...  # type: ignore[no-untyped-def]

    assert properties(echo) == {"it": {}, "times": {"default": 2}}


def test_literal_and_enum() -> None:
    def paint(colour: Colour, gloss: Literal["matt", "high"]) -> dict[str, Any]:
        return locals()

    assert properties(paint)["gloss"]["enum"] == ["matt", "high"]
    assert bind(paint, colour="blue", gloss="matt") == {"colour": Colour.BLUE, "gloss": "matt"}


def test_nested_models_dataclasses_and_typed_dicts() -> None:
    def deliver(to: Address, at: Point, filters: Filters, tree: Node) -> dict[str, Any]:
        return locals()

    assert schema(deliver)["$defs"]["Address"]["properties"]["street"]["type"] == "string"
    got = bind(deliver, to={"street": "Main"}, at={"x": 1}, filters={"tags": ["a"]}, tree={"value": 1, "children": []})
    assert got == {"to": Address(street="Main"), "at": Point(1.0), "filters": {"tags": ["a"]}, "tree": Node(value=1)}


@pytest.mark.parametrize("annotation", [Optional[int], int | None, "int | None", "Optional[int]"])  # noqa: UP045
def test_optional(annotation: Any) -> None:
    def take(x): ...  # type: ignore[no-untyped-def]

    take.__annotations__["x"] = annotation
    assert {"type": "null"} in properties(take)["x"]["anyOf"]


def test_a_default_of_none_makes_a_parameter_optional() -> None:
    def take(x: int = None, y: Annotated[int, Field(ge=1, description="Y.")] = None, z: Any = None) -> dict[str, Any]:  # type: ignore[assignment] # noqa: RUF013
        return locals()

    assert bind(take, x=None, y=None) == {"x": None, "y": None, "z": None}
    assert properties(take)["y"]["description"] == "Y."
    assert properties(take)["z"] == {"default": None}
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        bind(take, y=0)


def test_descriptions_come_from_the_annotation_before_the_docstring() -> None:
    def take(
        a: Annotated[int, "A, in words."],
        b: Annotated[int, Field(description="B, in words.", le=3)],
        c: Annotated[int, Doc("C, in words.")],
        d: int = Field(4, description="D, in words."),
        e: int = 5,
    ) -> None:
        """Take.

        Args:
            a: Wrong.
            b: Wrong.
            c: Wrong.
            d: Wrong.
            e: E, in words.
        """

    assert {name: p["description"][0] for name, p in properties(take).items()} == dict(
        zip("abcde", "ABCDE", strict=True)
    )
    assert properties(take)["b"]["maximum"] == 3


def test_field_defaults_reach_the_function() -> None:
    def take(
        a: int = Field(1),
        b: list[int] = Field(default_factory=list),  # noqa: B008 - how pydantic's users write it
        c: Annotated[int, Field(default=3)] = 4,
    ) -> dict[str, Any]:
        return locals()

    def need(a: int = Field(gt=1)) -> None: ...

    assert bind(take) == {"a": 1, "b": [], "c": 4}
    assert schema(need)["required"] == ["a"]


def test_a_mutable_default_is_not_shared_between_calls() -> None:
    def take(items: list[int] = []) -> list[int]:  # noqa: B006
        return items

    bind(take).append(1)
    assert bind(take) == []


def test_odd_parameter_names_work() -> None:
    def take(model_config: int, schema: int, _private: int, self: int, json: int = 0) -> dict[str, Any]:
        return locals()

    given = {"model_config": 1, "schema": 2, "_private": 3, "self": 4, "json": 5}
    assert bind(take, **given) == given


def test_positional_only_parameters() -> None:
    def take(a: int, context: RunContext, b: int = 2, /, c: int = 3) -> tuple[Any, ...]:
        return a, context, b, c

    assert bind(take, a=1) == (1, CONTEXT, 2, 3)
    assert bind(take, a=1, c=5) == (1, CONTEXT, 2, 5)
    assert bind(take, a=1, b=5) == (1, CONTEXT, 5, 3)


@pytest.mark.parametrize(
    "annotation",
    [
        RunContext,
        "RunContext",
        RunContext | None,
        Optional[RunContext],  # noqa: UP045
        "RunContext | None",
        Annotated[RunContext, "c"],
    ],
)
def test_the_run_context_is_injected_and_hidden(annotation: Any) -> None:
    def whoami(x, run=None): ...  # type: ignore[no-untyped-def]

    whoami.__annotations__ = {"x": int, "run": annotation}
    assert list(properties(whoami)) == ["x"]
    _, kwargs = Tool.of(whoami)._analysed().bind('{"x": 1}', CONTEXT)  # pyright: ignore[reportPrivateUsage]
    assert kwargs == {"x": 1, "run": CONTEXT}


def test_the_run_context_may_be_imported_for_type_checkers_alone() -> None:
    namespace: dict[str, Any] = {}
    exec("def whoami(run: 'RunContext'): ...", namespace)
    assert properties(namespace["whoami"]) == {}


def test_the_model_cannot_give_the_run_context() -> None:
    def whoami(run: RunContext) -> RunContext:
        return run

    with pytest.raises(ValueError, match="run"):
        bind(whoami, run={"run_id": "forged"})


def test_methods_and_callable_objects() -> None:
    class Kit:
        """A kit."""

        def method(self, x: int) -> None:
            """A method."""

        @classmethod
        def of_class(cls, x: int) -> None:
            """A class method."""

        @staticmethod
        def static(x: int) -> None:
            """A static method."""

        def __call__(self, x: int) -> None: ...

    kit = Kit()
    for function, says in [
        (kit.method, "A method."),
        (Kit.of_class, "A class method."),
        (Kit.static, "A static method."),
        (kit, "A kit."),
        (functools.partial(kit.method), "A method."),
        (functools.partial(kit), "A kit."),
    ]:
        made = Tool.of(function)
        assert made.parameters["properties"] == {"x": {"type": "integer"}}
        assert made.description == says


def test_a_method_is_a_tool_of_its_object_and_the_bare_function_another() -> None:
    class Kit:
        def method(self, x: int) -> tuple[Any, ...]:
            return self, x

    kit = Kit()
    assert list(properties(kit.method)) == ["x"]
    assert list(properties(Kit.method)) == ["self", "x"]
    assert bind(kit.method, x=1) == (kit, 1)


def test_what_a_partial_fills_is_hidden_from_the_model() -> None:
    def search(index: str, query: str, limit: int, api_key: str) -> dict[str, Any]:
        """Search."""
        return locals()

    filled = functools.partial(functools.partial(search, "main", api_key="secret"), limit=3)
    made = Tool.of(filled)
    assert made.name == "search"
    assert made.description == "Search."
    assert "secret" not in json.dumps(made.parameters)
    assert bind(filled, query="q") == {"index": "main", "query": "q", "limit": 3, "api_key": "secret"}


def test_decorated_functions_show_the_signature_below() -> None:
    def logged(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    @logged
    @functools.lru_cache
    def find(colour: Colour) -> Colour:
        """Find."""
        return colour

    assert Tool.of(find).description == "Find."
    assert bind(find, colour="red") is Colour.RED


def test_string_annotations_use_the_functions_globals_and_closure() -> None:
    class Local(BaseModel):
        x: int

    def take(at: Point, it: list[Local]) -> dict[str, Any]:
        assert Local
        return {"at": at, "it": it}

    assert bind(take, at={"x": 1}, it=[{"x": 2}]) == {"at": Point(1.0), "it": [Local(x=2)]}


def test_the_decorator_sees_the_names_of_the_function_around_it() -> None:
    class Local(BaseModel):
        x: int

    @tool
    def bare(it: Local) -> None: ...

    @tool(name="other")
    def called(it: list[Local]) -> None: ...

    assert bare.parameters["$defs"]["Local"]["properties"] == {"x": {"type": "integer"}}
    assert called.parameters["$defs"].keys() == {"Local"}


def variadic(*values: int) -> None: ...
def keywords(**options: int) -> None: ...
def generator() -> Any:
    yield 1


async def async_generator() -> Any:
    yield 1


def opaque(x: int, socket: memoryview) -> None: ...
def function_taking(x: int, callback: Callable[[], int]) -> None: ...
def for_type_checkers(x: int, amount: Decimal) -> None: ...
def malformed(x: "1 +") -> None: ...  # noqa: F722


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (variadic, ["tool variadic", "'*values'"]),
        (keywords, ["tool keywords", "'**options'"]),
        (functools.partial(keywords), ["tool keywords", "'**options'"]),
        (generator, ["tool generator", "generator"]),
        (async_generator, ["tool async_generator", "generator"]),
        (opaque, ["tool opaque", "'socket'"]),
        (function_taking, ["tool function_taking", "'callback'"]),
        (for_type_checkers, ["tool for_type_checkers", "'amount'", "Decimal", "TYPE_CHECKING"]),
        (malformed, ["tool malformed", "'x'"]),
        (dict, ["tool dict"]),
    ],
)
def test_what_a_model_cannot_call_is_named_by_prepare(function: Callable[..., Any], words: list[str]) -> None:
    made = Tool.of(function)
    with pytest.raises(ConfigurationError) as caught:
        made.prepare()
    assert all(word in str(caught.value) for word in words)


def test_a_function_is_analysed_once_however_many_agents_have_it() -> None:
    class Kit:
        def method(self, x: int) -> None: ...

    def take(x: int) -> None: ...

    assert Tool.of(take).parameters is Tool.of(take).parameters
    assert Tool.of(Kit().method).parameters is Tool.of(Kit().method).parameters


def test_the_analysis_keeps_no_function_alive() -> None:
    def take(x: int, at: Point | None = None) -> None: ...

    Tool.of(take).prepare()
    reference = weakref.ref(take)
    del take
    gc.collect()
    assert reference() is None
