"""JSON schemas in the subset that OpenAI enforces ("strict"). Pure; `request.py` calls it.

Source: https://platform.openai.com/docs/guides/structured-outputs#supported-schemas
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

_UNSUPPORTED = frozenset(
    "allOf contains dependentRequired dependentSchemas else if maxContains maxLength maxProperties minContains "
    "minLength minProperties not oneOf patternProperties prefixItems propertyNames then unevaluatedItems "
    "unevaluatedProperties uniqueItems".split()
)
_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})
_ONE_OF_THESE = frozenset({"type", "anyOf", "$ref", "enum", "const"})
_MAPS_OF_SCHEMAS = frozenset({"properties", "$defs", "definitions"})
_VERBATIM = frozenset({"enum", "const", "required", "description", "title"})


def inline_root(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema with an object at its root: pydantic puts a reference there for a recursive model."""
    name = str(schema.get("$ref", "")).removeprefix("#/$defs/")
    definitions: Mapping[str, Mapping[str, Any]] = schema.get("$defs", {})
    if name not in definitions:
        return dict(schema)
    return {**definitions[name], "$defs": definitions}


class _NotStrict(Exception):
    """The schema has no strict equivalent."""


def strict_schema(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return an equivalent that strict mode accepts, or None when there is none.

    Objects are closed and every property becomes required (the model then writes out what it would have left to a
    default); `default` is dropped. Open objects (a `dict[str, int]`) and the keywords that strict mode refuses have no
    equivalent: then the schema is sent as it is, as a request that the model may miss.
    """
    try:
        return _strict(schema)
    except _NotStrict:
        return None


def _strict(schema: Mapping[str, Any]) -> dict[str, Any]:
    if not _UNSUPPORTED.isdisjoint(schema) or _ONE_OF_THESE.isdisjoint(schema):
        raise _NotStrict
    if schema.get("format", "date") not in _FORMATS or "(?" in schema.get("pattern", ""):
        raise _NotStrict  # its regular expressions know no lookaround, which is in those of pydantic's Decimal
    strict = {key: _strict_value(key, value) for key, value in schema.items() if key != "default"}
    if "$ref" in strict:
        return {"$ref": strict["$ref"]}  # strict mode refuses keywords beside a reference
    if schema.get("type") == "object":
        _close(schema, strict)
    return strict


def _close(schema: Mapping[str, Any], strict: dict[str, Any]) -> None:
    if schema.get("additionalProperties", False) is not False or "properties" not in schema:
        raise _NotStrict
    strict["additionalProperties"] = False
    strict["required"] = list(cast("Mapping[str, Any]", schema["properties"]))


def _strict_value(key: str, value: Any) -> Any:
    if key in _VERBATIM:
        return value
    if isinstance(value, Mapping):
        members = cast("Mapping[str, Any]", value)
        if key in _MAPS_OF_SCHEMAS:
            return {name: _strict(member) for name, member in members.items()}
        return _strict(members)
    if isinstance(value, Sequence) and not isinstance(value, str):
        items = cast("Sequence[Any]", value)
        return [_strict(cast("Mapping[str, Any]", item)) if isinstance(item, Mapping) else item for item in items]
    return value
