"""The arguments of a tool: from a function's signature and docstring to JSON schema, validation and the call.

`tool.py` imports this when a tool is first used, as pydantic's machinery is heavy. pydantic does the work on a
`TypedDict` made of the parameters, which takes any parameter name and gives their values as a plain dict. Annotations
are resolved one at a time, so that an error can name its own.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter
from types import FunctionType, MethodType, NoneType, UnionType
from typing import Annotated, Any
from weakref import WeakKeyDictionary

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema
from typing_extensions import TypedDict

from definable.agent.run.context import RunContext
from definable.errors import ConfigurationError

from .docstring import parse_docstring


def written_function(function: Callable[..., Any]) -> Any:
    """The function whose `def` a callable goes back to: under partials, methods, decorators and callable objects."""
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__  # pyright: ignore[reportFunctionMemberAccess]
        elif inspect.ismethod(function):
            function = function.__func__
        elif inspect.isroutine(function) or inspect.isclass(function):
            return function
        else:
            function = type(function).__call__


def namespace_of(function: Any, names: Mapping[str, Any]) -> dict[str, Any]:
    """What the string annotations of a written function may refer to.

    Args:
        function: From `written_function`.
        names: Further names, of an enclosing function.
    """
    if inspect.isclass(function):
        function = function.__init__
    # RunContext is often imported for type checkers alone.
    namespace: dict[str, Any] = {"RunContext": RunContext, **getattr(function, "__globals__", {}), **names}
    return {**namespace, **dict(_closure(function))}


def resolve(annotation: Any, namespace: dict[str, Any]) -> Any:
    """The type that an annotation stands for.

    Raises:
        NameError: It refers to a name that does not exist.
    """
    if annotation is inspect.Parameter.empty:
        return Any
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    return typing.get_type_hints(holder, namespace, include_extras=True)["it"]


def is_run_context(annotation: Any) -> bool:
    """Whether a type is `RunContext`, maybe None, maybe `Annotated`."""
    if typing.get_origin(annotation) is typing.Annotated:
        return is_run_context(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return any(is_run_context(member) for member in typing.get_args(annotation))
    return annotation is RunContext


def _closure(function: Any) -> Iterator[tuple[str, Any]]:
    code = getattr(function, "__code__", None)
    for name, cell in zip(getattr(code, "co_freevars", ()), getattr(function, "__closure__", None) or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not assigned yet
            continue


# The typing forms that are made of values here, which no type checker can follow.
_annotated: Any = Annotated
_typed_dict: Any = TypedDict


@dataclass(frozen=True, slots=True)
class ToolSchema:
    """What a function takes, for models to see and for calls to be checked against."""

    description: str
    """The docstring's, without its sections."""
    parameters: dict[str, Any]
    """JSON schema (2020-12) of the arguments, an object; not to be changed."""
    adapter: TypeAdapter[dict[str, Any]]
    injected: Sequence[str]
    """Parameters that take the `RunContext`, hidden from the model."""
    positional: Sequence[str]
    """Parameters that Python takes by position alone."""

    def bind(self, arguments: str, context: RunContext) -> tuple[list[Any], dict[str, Any]]:
        """Check a model's arguments and complete them to a call.

        Args:
            arguments: JSON text; an empty one and `null`, which some models send, mean no arguments.
            context: For the parameters that take it.

        Returns:
            Positional and keyword arguments of the function.

        Raises:
            pydantic.ValidationError: They are not JSON, or do not fit.
        """
        text = "{}" if arguments.strip() in ("", "null") else arguments
        values = self.adapter.validator.validate_json(text)
        for name in self.injected:
            values[name] = context
        return [values.pop(name) for name in self.positional], values


# One analysis for a function, however many agents have it. A method's differs by its missing first parameter.
_of_functions: WeakKeyDictionary[FunctionType, ToolSchema] = WeakKeyDictionary()
_of_methods: WeakKeyDictionary[FunctionType, ToolSchema] = WeakKeyDictionary()


def schema_of(function: Callable[..., Any], names: Mapping[str, Any]) -> ToolSchema:
    """The schema of a function, analysed once.

    Args:
        function: Anything callable.
        names: What its string annotations may refer to beside its globals and closure.

    Raises:
        ConfigurationError: A model cannot call it; the message names function and parameter.
    """
    if isinstance(function, FunctionType):
        cache, key = _of_functions, function
    elif isinstance(function, MethodType) and isinstance(function.__func__, FunctionType):
        cache, key = _of_methods, function.__func__
    else:
        return _analyse(function, names)
    schema = cache.get(key)
    if schema is None:
        schema = cache[key] = _analyse(function, names)
    return schema


def _analyse(function: Callable[..., Any], names: Mapping[str, Any]) -> ToolSchema:
    written = written_function(function)
    label = f"tool {getattr(written, '__qualname__', written)}"
    if inspect.isgeneratorfunction(written) or inspect.isasyncgenfunction(written):
        raise ConfigurationError(f"{label} is a generator function; a tool returns its result whole, say as a list")
    docstring = parse_docstring(_documentation(function, written))
    fields: dict[str, Any] = {}
    injected: list[str] = []
    positional: list[str] = []
    namespace = namespace_of(written, names)
    for parameter in _parameters(function, label):
        annotation = _resolved(parameter, namespace, label)
        if parameter.kind is Parameter.POSITIONAL_ONLY:
            positional.append(parameter.name)
        if is_run_context(annotation):
            injected.append(parameter.name)
        else:
            fields[parameter.name] = _field(parameter, annotation, docstring.parameters.get(parameter.name))
    adapter, parameters = _build(fields, label)
    return ToolSchema(docstring.description, parameters, adapter, tuple(injected), tuple(positional))


def _documentation(function: Callable[..., Any], written: Any) -> str | None:
    """The docstring of the function itself, else of the class whose objects are called."""
    while isinstance(function, functools.partial):
        function = function.func
    of_class = type(function).__doc__ if written.__name__ == "__call__" else None
    return inspect.getdoc(written) or of_class


def _parameters(function: Callable[..., Any], label: str) -> Iterator[Parameter]:
    """The parameters that a call has to fill; those that a partial fills by name are nobody else's business."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError, NameError) as exc:
        raise ConfigurationError(f"{label} has no readable signature: {exc}") from exc
    filled = _filled_by_partials(function)
    for parameter in signature.parameters.values():
        if parameter.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD):
            raise ConfigurationError(
                f"{label}: parameter {str(parameter).partition(':')[0]!r} has no place in a tool, as a model fills in"
                " arguments that it knows by name; write them out, or take one list or dict"
            )
        if parameter.name not in filled:
            yield parameter


def _filled_by_partials(function: Callable[..., Any]) -> set[str]:
    names: set[str] = set()
    while isinstance(function, functools.partial):
        names.update(function.keywords)
        function = function.func
    return names


def _resolved(parameter: Parameter, namespace: dict[str, Any], label: str) -> Any:
    try:
        return resolve(parameter.annotation, namespace)
    except Exception as exc:  # evaluates what the user wrote
        raise ConfigurationError(
            f"{label}: the annotation of parameter {parameter.name!r}, {parameter.annotation!r}, cannot be resolved:"
            f" {exc}. Its names must exist at run time, not only under `if TYPE_CHECKING:`"
        ) from exc


def _field(parameter: Parameter, annotation: Any, documented: str | None) -> Any:
    """A parameter as pydantic takes it; later metadata win, so that a `Field` of the user's has the last word."""
    bare, metadata = annotation, ()
    if typing.get_origin(annotation) is Annotated:
        bare, *metadata = typing.get_args(annotation)
    if parameter.default is None and not _takes_none(bare):
        bare = typing.Optional[bare]  # noqa: UP045 - `x: int = None` is often written, and models then send null
    description = next(filter(None, map(_words, metadata)), documented)
    return _annotated[bare, Field(description=description), *metadata, *_default(parameter)]


def _takes_none(annotation: Any) -> bool:
    if typing.get_origin(annotation) in (typing.Union, UnionType):
        return any(_takes_none(member) for member in typing.get_args(annotation))
    return annotation in (Any, object, None, NoneType)


def _words(metadata: Any) -> str | None:
    """The description in `Annotated[int, "description"]`, or in a `Doc("description")` there."""
    words = getattr(metadata, "documentation", metadata)
    return words if isinstance(words, str) else None


def _default(parameter: Parameter) -> Iterator[FieldInfo]:
    if isinstance(parameter.default, FieldInfo):
        yield parameter.default
    elif parameter.default is not Parameter.empty:
        yield Field(default=parameter.default)


class _JsonSchema(GenerateJsonSchema):
    """Without what costs tokens and says nothing: a title that repeats the name."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012 - as pydantic declares it

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _build(fields: Mapping[str, Any], label: str) -> tuple[TypeAdapter[dict[str, Any]], dict[str, Any]]:
    try:
        return _compile(fields)
    except Exception as exc:  # pydantic's errors share no base, and users' types bring their own
        raise ConfigurationError(f"{label}{_culprit(fields)}: {exc}") from exc


def _culprit(fields: Mapping[str, Any]) -> str:
    """Names the parameter that pydantic cannot take, by trying each alone."""
    for name, field in fields.items():
        try:
            _compile({name: field})
        except Exception:
            return f": parameter {name!r} cannot be filled from JSON"
    return ""


def _compile(fields: Mapping[str, Any]) -> tuple[TypeAdapter[dict[str, Any]], dict[str, Any]]:
    arguments = _typed_dict("Arguments", dict(fields))
    arguments.__pydantic_config__ = ConfigDict(extra="forbid")
    adapter: TypeAdapter[dict[str, Any]] = TypeAdapter(arguments)
    schema = adapter.json_schema(schema_generator=_JsonSchema)
    schema.pop("title", None)
    return adapter, schema
