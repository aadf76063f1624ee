"""An agent's `output_type`: the schema that the model is told, and the check of what it answers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from definable.errors import ConfigurationError, OutputValidationError
from definable.model.message import ModelReply, OutputSchema

from .loop import CheckReply, RejectedReply

if TYPE_CHECKING:
    from pydantic import TypeAdapter

CODE_FENCE = re.compile(r"^\s*```[a-zA-Z]*\n(.*?)\n?```\s*$", re.DOTALL)
"""Models without a JSON mode like to fence their JSON."""


class OutputType:
    """Validates replies as one type, through pydantic.

    Args:
        type_: A pydantic model, or any type that pydantic can validate.

    Raises:
        ConfigurationError: pydantic cannot validate it.
    """

    __slots__ = ("_adapter", "schema")

    def __init__(self, type_: Any) -> None:
        import pydantic  # heavy, and most agents have no output type

        try:
            self._adapter: TypeAdapter[Any] = pydantic.TypeAdapter(type_)
            schema = self._adapter.json_schema()
        except (pydantic.PydanticUserError, pydantic.errors.PydanticInvalidForJsonSchema) as error:
            raise ConfigurationError(f"output_type={type_!r}: {error.message}") from error
        name = re.sub(r"[^a-zA-Z0-9_-]", "_", getattr(type_, "__name__", "output"))[:64]
        self.schema: OutputSchema = OutputSchema(name, schema)

    def checker(self) -> CheckReply:
        """A check for one run: it rejects a reply that does not fit once, with the reason; the second time it fails."""
        rejections = 0

        def check(reply: ModelReply) -> Any:
            nonlocal rejections
            try:
                return self._parse(reply.content)
            except ValueError as error:  # pydantic's ValidationError is one
                rejections += 1
                if rejections > 1:
                    raise OutputValidationError(
                        f"the reply does not fit output_type {self.schema.name!r}, also when asked once more: {error}"
                    ) from error
                raise RejectedReply(
                    f"The reply does not fit the required JSON schema: {error}\n"
                    "Answer again, with nothing but JSON that does."
                ) from error

        return check

    def _parse(self, text: str) -> Any:
        if self.schema.schema.get("type") != "string":
            return self._adapter.validate_json(_unfenced(text))
        try:
            return self._adapter.validate_python(text)
        except ValueError as error:  # of an enum, a date ...: a model that is asked for JSON puts quotes around it
            try:
                return self._adapter.validate_json(_unfenced(text))
            except ValueError:
                raise error from None


def _unfenced(text: str) -> str:
    fenced = CODE_FENCE.match(text)
    return fenced[1] if fenced else text


def plain_text(reply: ModelReply) -> str:
    """The check of an agent without an output type: every reply fits."""
    return reply.content
