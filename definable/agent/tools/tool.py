"""Tools: users' functions that a model may call.

`Agent` makes `Tool`s of what it is given, `run_loop` shows their `definition` to the model and calls them. Making one
costs next to nothing: the signature is analysed (`schema.py`) when first needed, once for each function.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, Generic, cast, overload

import anyio
from pydantic_core import ValidationError
from typing_extensions import ParamSpec, TypeVar

from definable.agent.run.context import RunContext
from definable.concurrency.call import call_user
from definable.concurrency.isolation import is_failure
from definable.concurrency.logs import logger_named
from definable.errors import ConfigurationError
from definable.model.message import ToolDefinition

from .result import ToolResult, describe_exception, explain

if TYPE_CHECKING:
    from .schema import ToolSchema

logger: logging.Logger = logger_named(__name__)

P = ParamSpec("P", default=...)
R = TypeVar("R", default=Any)

_NO_NAMES: Mapping[str, Any] = {}

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
"""What model providers accept as a function's name (OpenAI API reference, `tools[].function.name`)."""


class Tool(Generic[P, R]):
    """A function that a model may call, with the name and description that it sees.

    Any sync function (it runs in a worker thread) or async one will do, also a bound method, a partial or a callable
    object. Called directly, a tool is the function itself.

    Args:
        function: What to call.
        name: The function's own when None.
        description: That of the docstring, up to its sections, when None.
        timeout: Seconds that a call may take; None for no limit but the run's.
        names: What string annotations may refer to beside the function's globals and closure.

    Raises:
        ConfigurationError: `function` cannot be called, no provider accepts the name, or `timeout` is not positive.
    """

    __slots__ = ("__weakref__", "_definition", "_description", "_names", "_schema", "function", "name", "timeout")

    def __init__(
        self,
        function: Callable[P, R],
        *,
        name: str | None = None,
        description: str | None = None,
        timeout: float | None = None,
        names: Mapping[str, Any] = _NO_NAMES,
    ) -> None:
        if not callable(function):
            raise ConfigurationError(f"{function!r} is no tool: a function is needed, or another callable")
        if timeout is not None and not timeout > 0:
            raise ConfigurationError(f"tool timeout={timeout!r}: seconds, greater than 0, or None")
        self.function: Final = function
        self.name: Final = _checked_name(name if name is not None else _name_of(function))
        self.timeout: Final = timeout
        self._description = description
        self._names = names
        self._schema: ToolSchema | None = None
        self._definition: ToolDefinition | None = None

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Tool[..., Any]:
        """The tool that `function` is or becomes.

        Raises:
            ConfigurationError: It cannot be called, or no provider accepts its name.
        """
        return cast(Tool[..., Any], function) if isinstance(function, Tool) else Tool(function)

    @property
    def definition(self) -> ToolDefinition:
        """The tool as a model sees it.

        Raises:
            ConfigurationError: A model cannot call the function; see `prepare`.
        """
        definition = self._definition
        if definition is None:
            schema = self._analysed()
            description = self._description if self._description is not None else schema.description
            definition = self._definition = ToolDefinition(self.name, description, schema.parameters)
        return definition

    @property
    def description(self) -> str:
        """What the model reads of the tool."""
        return self.definition.description

    @property
    def parameters(self) -> Mapping[str, Any]:
        """JSON schema (2020-12) of the arguments, an object."""
        return self.definition.parameters

    def prepare(self) -> None:
        """Analyse the function now rather than at first use, so that a mistake shows here.

        Raises:
            ConfigurationError: A model cannot call the function: `*args` or `**kwargs`, a type that JSON cannot fill,
                an annotation that does not resolve, a generator. The message names function and parameter.
        """
        _ = self.definition

    async def call(self, arguments: str, context: RunContext) -> ToolResult:
        """Call the function with a model's arguments.

        Whatever goes wrong becomes a result for the model: arguments that are not JSON or do not fit, an exception
        (logged with its traceback), a time-out. `SystemExit` too: a tool that calls `exit()` ends neither the run nor
        the service (asyncio makes an exception: in a task that the tool itself starts, `SystemExit` ends the event
        loop). Only `KeyboardInterrupt` and a cancellation of the caller pass through.

        Args:
            arguments: JSON text, as the model sent it.
            context: The run, for the parameters that take it.

        Raises:
            ConfigurationError: A model cannot call the function; see `prepare`.
        """
        schema = self._analysed()
        try:
            try:
                args, kwargs = schema.bind(arguments, context)
            except ValidationError as exc:
                return self._refused(exc)
            return await self._bounded(args, kwargs)
        except BaseException as exc:
            if not is_failure(exc):
                raise
            return self._failed(exc)

    async def _bounded(self, args: list[Any], kwargs: dict[str, Any]) -> ToolResult:
        if self.timeout is None:
            return ToolResult.of(await call_user(self.function, *args, **kwargs))
        with anyio.move_on_after(self.timeout):
            return ToolResult.of(await call_user(self.function, *args, **kwargs))
        logger.warning("tool %s timed out after %g s", self.name, self.timeout)
        return ToolResult.failed(f"{self.name} timed out after {self.timeout:g} s")

    def _refused(self, error: ValidationError) -> ToolResult:
        problems = explain(error)
        logger.info("tool %s was called with invalid arguments: %s", self.name, problems)
        required = self.parameters.get("required", ())
        names = [name if name in required else f"{name} (optional)" for name in self.parameters["properties"]]
        expected = f"the arguments are {', '.join(names)}" if names else "there are no arguments"
        return ToolResult.failed(f"Invalid arguments for {self.name}: {problems}. One JSON object; {expected}.")

    def _failed(self, error: BaseException) -> ToolResult:
        logger.error("tool %s failed", self.name, exc_info=error)
        return ToolResult.failed(describe_exception(error))

    def _analysed(self) -> ToolSchema:
        schema = self._schema
        if schema is None:
            from .schema import schema_of  # loads pydantic's machinery, which is heavy

            schema = self._schema = schema_of(self.function, self._names)
            self._names = _NO_NAMES
        return schema

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def __get__(self, instance: object, owner: type | None = None) -> Tool[..., R]:
        """A tool that is a method, of its object."""
        bind = getattr(self.function, "__get__", None)
        if instance is None or bind is None:
            return self
        return Tool(
            bind(instance, owner),
            name=self.name,
            description=self._description,
            timeout=self.timeout,
            names=self._names,
        )

    @property
    def __name__(self) -> str:
        return self.name

    @property
    def __wrapped__(self) -> Callable[P, R]:
        """Where `inspect` finds signature and source."""
        return self.function

    def __repr__(self) -> str:
        return f"<Tool {self.name}>"


@overload
def tool(function: Callable[P, R], /) -> Tool[P, R]: ...


@overload
def tool(
    *, name: str | None = None, description: str | None = None, timeout: float | None = None
) -> Callable[[Callable[P, R]], Tool[P, R]]: ...


def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: float | None = None,
) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """Make a function or a method a tool: `@tool`, or `@tool(name=..., timeout=...)`.

    Args:
        function: What to call.
        name: What the model calls it; the function's own name when None.
        description: What the model reads of it; the docstring, up to its sections, when None.
        timeout: Seconds that a call may take; None for no limit but the run's.

    Raises:
        ConfigurationError: `function` cannot be called, no provider accepts the name, or `timeout` is not positive.
    """

    def decorate(function: Callable[..., Any], depth: int = 1) -> Tool:
        names = enclosing_names(function, depth)
        return Tool(function, name=name, description=description, timeout=timeout, names=names)

    return decorate if function is None else decorate(function, 2)


def index_tools(tools: Iterable[Callable[..., Any]]) -> Mapping[str, Tool]:
    """An agent's tools by the name that the model calls them by.

    Raises:
        ConfigurationError: Two have one name, one cannot be called, or no provider accepts its name.
    """
    index: dict[str, Tool] = {}
    for made in map(Tool.of, tools):
        if made.name in index:
            raise ConfigurationError(
                f"two tools are named {made.name!r}; give one another name: tool(name=...)(function)"
            )
        index[made.name] = made
    return index


def _name_of(function: Any) -> str:
    while not hasattr(function, "__name__") and hasattr(function, "func"):  # a partial
        function = function.func
    return getattr(function, "__name__", type(function).__name__)


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{name!r} is no tool's name: providers take 1 to 64 of A-Z a-z 0-9 _ -; give one: tool(name=...)(function)"
        )
    return name


def enclosing_names(function: Any, depth: int) -> dict[str, Any]:
    """What the string annotations of a nested function take from the function around it, which runs now.

    A closure holds only what the body uses, and a class that appears in an annotation alone is gone with the frame.

    Args:
        function: Perhaps a nested one.
        depth: How many frames above the caller the function around it runs.
    """
    if "<locals>" not in getattr(function, "__qualname__", ""):
        return {}
    variables = sys._getframe(depth + 1).f_locals  # pyright: ignore[reportPrivateUsage]
    return {name: variables[name] for name in _names_in_strings(function) if name in variables}


def _names_in_strings(function: Any) -> Iterator[str]:
    try:
        annotations = dict(function.__annotations__)
    except (AttributeError, NameError):  # NameError: Python 3.14 evaluates here
        return
    for annotation in annotations.values():
        if isinstance(annotation, str):
            try:
                yield from compile(annotation, "<annotation>", "eval").co_names
            except SyntaxError:
                continue
