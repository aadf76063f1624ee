"""An agent's `output_type`: how the model is asked for an answer of a type, and how its reply becomes one.

The runner makes an `OutputType` of what the agent was given; each run asks it for a `WantedOutput`, which knows the
mode and how often a reply has not fitted. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterator
from inspect import isroutine
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from pydantic_core import ValidationError, from_json

from definable.errors import ConfigurationError, OutputValidationError
from definable.model.message import Model, ModelReply, OutputMode, OutputSchema, ToolCall, ToolDefinition

if TYPE_CHECKING:
    from pydantic import TypeAdapter

ANSWER_TOOL = "final_answer"
"""The tool whose call is the answer, in mode "tool"."""

ANSWER_FIELD = "answer"
"""Providers take nothing but an object as a schema's root: anything else stands in this field of one."""

ANSWER_IN_JSON = "Answer with nothing but JSON, not fenced, that fits this JSON schema:"

Answer: TypeAlias = Any
"""A value of the output type."""


class RejectedReply(Exception):
    """A reply that does not fit; its message tells the model what is wrong."""


class OutputType:
    """What replies are validated as, through pydantic.

    Args:
        type_: A pydantic model, or any type that pydantic can validate.

    Raises:
        ConfigurationError: pydantic cannot validate it.
    """

    __slots__ = ("_adapter", "_is_string", "_wrapped", "is_any_text", "name", "schema")

    def __init__(self, type_: Any) -> None:
        import pydantic  # heavy, and most agents have no output type

        if isroutine(type_):  # pydantic would call it with what the model gives
            raise ConfigurationError(f"output_type={type_!r}: a type, not a function; a tool is what the model calls")
        self.name: str = re.sub(r"[^a-zA-Z0-9_-]", "_", getattr(type_, "__name__", "output"))[:64]
        self._wrapped: TypeAdapter[Any] | None = None
        """Of an object with the answer in it, where the type's own schema is none of an object."""
        try:
            self._adapter: TypeAdapter[Any] = pydantic.TypeAdapter(type_)
            schema = self._adapter.json_schema()
            self._is_string = schema.get("type") == "string"
            self.is_any_text: bool = self._is_string and schema.keys() <= _OF_ANY_TEXT
            """Whether every reply fits: the model is asked for nothing in particular."""
            if _root_of(schema).get("type") != "object":
                wrapper = cast("Any", pydantic.create_model)(self.name, **{ANSWER_FIELD: (type_, ...)})
                self._wrapped = pydantic.TypeAdapter(wrapper)
                schema = self._wrapped.json_schema()
        except (pydantic.PydanticUserError, pydantic.errors.PydanticInvalidForJsonSchema) as error:
            raise ConfigurationError(f"output_type={type_!r}: {error.message}") from error
        self.schema: OutputSchema = OutputSchema(self.name, schema)
        """What the model is told: always of an object."""

    def wanted(self, model: Model, mode: str, tools: Container[str]) -> WantedOutput:
        """What one run asks for.

        Args:
            model: The model that is asked.
            mode: How it is asked; "auto" is the first mode that its profile knows.
            tools: The names of the tools that it may call.
        """
        return WantedOutput(self, _best_mode(model, bool(tools)) if mode == "auto" else cast("OutputMode", mode), tools)

    def parse(self, text: str) -> Answer:
        """The answer that a reply's text holds, whatever the model has put around it.

        Raises:
            ValueError: It holds none that fits; pydantic's ValidationError is one.
        """
        if self.is_any_text:
            return self._adapter.validate_python(text)
        failure: ValueError | None = None
        if self._is_string:  # an enumeration's, a date: with quotes around it, without, or in an object
            try:
                return self._adapter.validate_python(text)
            except ValueError as error:
                failure = error
        for candidate in _candidates(text):
            try:
                return self._validated(candidate, from_json(candidate))
            except ValidationError as error:
                failure = failure or error
            except ValueError:  # no JSON
                pass
        if failure is not None:
            raise failure
        return self._adapter.validate_json(text)  # raises, and says where the JSON ends

    def _validated(self, document: str, value: Any) -> Answer:
        if self._wrapped is not None and isinstance(value, dict) and cast("Any", value).keys() == {ANSWER_FIELD}:
            return getattr(self._wrapped.validate_json(document), ANSWER_FIELD)
        return self._adapter.validate_json(document)


class WantedOutput:
    """What one run asks the model for, and what becomes of its replies.

    Args:
        output_type: What they are validated as.
        mode: How the model is asked.
        tools: The names of the tools that it may call.
    """

    __slots__ = ("_mode", "_rejections", "_type", "schema", "tool")

    def __init__(self, output_type: OutputType, mode: OutputMode, tools: Container[str]) -> None:
        self._type = output_type
        self._mode = mode
        self._rejections = 0
        self.schema: OutputSchema | None = None
        """What the provider is asked to enforce."""
        self.tool: ToolDefinition | None = None
        """The tool whose call is the answer."""
        if output_type.is_any_text:
            return
        if mode == "native":
            self.schema = output_type.schema
        elif mode == "tool":
            name = ANSWER_TOOL
            while name in tools:
                name += "_"
            self.tool = ToolDefinition(name, "Call it with your answer, and once.", output_type.schema.schema)

    @property
    def instructions(self) -> str:
        """What the model is told besides, at the end of its instructions; empty where there is no need to."""
        if self._mode == "prompt" and not self._type.is_any_text:
            return f"{ANSWER_IN_JSON}\n{json.dumps(self._type.schema.schema)}"
        return "" if self.tool is None else f"Give your answer by calling the tool {self.tool.name}."

    def answer_call(self, reply: ModelReply) -> ToolCall | None:
        """The call that is the answer; None where the reply holds none."""
        if self.tool is not None:
            for call in reply.tool_calls:
                if call.name == self.tool.name:
                    return call
        return None

    def read(self, text: str) -> Answer:
        """The answer that a reply's text, or the arguments of its call, hold.

        Raises:
            RejectedReply: It does not fit, and the model may try once more.
            OutputValidationError: Nor does what it has tried.
        """
        try:
            return self._type.parse(text)
        except ValueError as error:
            self._rejections += 1
            if self._rejections > 1:
                raise OutputValidationError(
                    f"the reply does not fit output_type {self._type.name!r}, also when asked once more: {error}"
                ) from error
            how = "with nothing but JSON that does" if self.tool is None else f"by calling {self.tool.name}"
            raise RejectedReply(
                f"The reply does not fit the required JSON schema: {error}\nAnswer again, {how}."
            ) from error


_OF_ANY_TEXT = frozenset({"type", "title", "description", "default", "examples"})
"""Keywords of a string's schema that every text fits."""


def _root_of(schema: Any) -> Any:
    """The schema that a reference at the root of a recursive model leads to; another schema as it is."""
    name = str(schema.get("$ref", "")).removeprefix("#/$defs/")
    return schema.get("$defs", {}).get(name, schema)


def _best_mode(model: Model, has_tools: bool) -> OutputMode:
    profile = getattr(model, "profile", None)
    if profile is None or (profile.json_schema and (profile.json_schema_with_tools or not has_tools)):
        return "native"
    return "tool" if getattr(profile, "tools", True) else "prompt"


_FENCED = re.compile(r"```[a-zA-Z]*[ \t]*\n?(.*?)```", re.DOTALL)
"""What models without a JSON mode like to put around their JSON."""


def _candidates(text: str) -> Iterator[str]:
    """What may be the JSON of a reply: the text, or what is left without reasoning, fences and words around it."""
    yield text
    _, thought, after = text.rpartition("</think>")
    if thought:
        yield after
    for fenced in _FENCED.finditer(after):
        yield fenced[1]
    for begin, end in sorted((after.find(first), after.rfind(last)) for first, last in ("{}", "[]")):
        if 0 <= begin < end:
            yield after[begin : end + 1]
