"""What a user hands to an agent, refused where it is given when nothing can be done with it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypedDict

from definable.concurrency.call import takes
from definable.errors import ConfigurationError
from definable.model.message import Message
from definable.original_library import RUN_ARGUMENTS, unknown_arguments

from .auth.base import check_platforms, is_provider
from .run.limits import UsageLimits

INTERFACES = "definable.interfaces"
"""The entry point group in which packages name their interfaces."""

OUTPUT_MODES = ("auto", "native", "tool", "prompt")
"""What `Agent(output_mode=)` may be; "auto" is the first that the model's profile knows."""

RUN_PARAMETERS = ("input", "session_id", "user_id", "metadata")
"""What a run can be started with; a handler's dict holds the same."""


class NoArguments(TypedDict):
    """Keyword arguments of which there are none: what is given in spite of that is refused with the way out."""


class OriginalRun(TypedDict, total=False):
    """What a run's arguments are called in programs of the original library."""

    instruction: str | Message
    """The input."""


class OriginalEmit(TypedDict, total=False):
    """What the arguments of `emit` are called in programs of the original library."""

    event_name: str
    """The event's name."""


def check_middleware(middleware: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Refuse what makes no ASGI application around another.

    Raises:
        ConfigurationError: It cannot be called with an application and these arguments.
    """
    how = "a class or function of an ASGI application, such as add_middleware(GZipMiddleware, minimum_size=500)"
    if not callable(middleware):
        raise ConfigurationError(f"add_middleware({middleware!r}): {how}")
    try:
        inspect.signature(middleware).bind(None, *args, **kwargs)
    except TypeError as error:
        raise ConfigurationError(f"add_middleware({middleware!r}, ...): {error}; {how}") from None
    except ValueError:  # it tells no signature
        return


def run_input(function: str, input: str | Message | None, original: OriginalRun) -> str | Message:
    """A run's input, by whichever name it was given.

    Raises:
        ConfigurationError: There is none, or there are two.
        TypeError: Another argument was given.
    """
    if original:
        if original.keys() != {"instruction"}:
            unknown_arguments(f"{function}()", original.keys() - {"instruction"}, RUN_PARAMETERS, RUN_ARGUMENTS)
        if input is not None:
            raise ConfigurationError(f"{function}() got input and instruction, which are two names of one argument")
        input = original.get("instruction")
    if input is None:
        raise ConfigurationError(f"{function}() needs an input: {function}('What is new?')")
    return input


def event_name(name: str | None, original: OriginalEmit) -> str:
    """An event's name, by whichever argument it was given.

    Raises:
        TypeError: Another argument was given.
    """
    if original.keys() - {"event_name"}:
        unknown_arguments("emit()", original.keys() - {"event_name"}, ("name", "data"), {})
    return original.get("event_name", "") if name is None else name


def check_parts(instructions: object, sessions: object, bus: object, auth: object) -> None:
    """Refuse what an agent cannot work with: a path or a URL in place of what opens it, a class in place of its object.

    Raises:
        ConfigurationError: One of them is not what it should be.
    """
    if instructions is not None and not isinstance(instructions, str) and not callable(instructions):
        raise ConfigurationError(f"instructions={instructions!r}: a string, or a function of the RunContext")
    if sessions is not None and (isinstance(sessions, type) or not hasattr(sessions, "load")):
        raise ConfigurationError(f"sessions={sessions!r}: a session store, such as SQLiteSessionStore(path)")
    if bus is not None and (isinstance(bus, type) or not hasattr(bus, "publish")):
        raise ConfigurationError(f"bus={bus!r}: an event bus, such as SQLiteBus(path)")
    check_auth(auth)


def check_loop(tools: object, output_mode: object, history: object, usage_limits: object) -> None:
    """Refuse what no run can be made with.

    Raises:
        ConfigurationError: One of them is not what it should be.
    """
    if tools is not None and (isinstance(tools, str | Mapping) or not isinstance(tools, Iterable)):
        raise ConfigurationError(f"tools={tools!r}: a list of functions, such as tools=[search]")
    if output_mode not in OUTPUT_MODES:
        raise ConfigurationError(f"output_mode={output_mode!r}: one of {', '.join(map(repr, OUTPUT_MODES))}")
    if history is not None and not (callable(history) and takes(history, 1)):
        raise ConfigurationError(f"history={history!r}: a function of the messages that returns fewer")
    if usage_limits is not None and not isinstance(usage_limits, UsageLimits):
        raise ConfigurationError(f"usage_limits={usage_limits!r}: UsageLimits(requests=..., output_tokens=...)")


def lifespan_of(lifespan: Any) -> Any:
    """A lifespan as a function that returns an async context manager.

    Raises:
        ConfigurationError: It cannot be called with the agent.
    """
    if lifespan is None:
        return None
    if isinstance(lifespan, type) or not takes(lifespan, 1):
        raise ConfigurationError(
            f"lifespan={lifespan!r}: a function of the agent that returns an async context manager, such as one "
            "decorated with contextlib.asynccontextmanager"
        )
    return asynccontextmanager(lifespan) if inspect.isasyncgenfunction(lifespan) else lifespan


def check_auth(auth: object) -> None:
    """Refuse what cannot say who a caller is.

    Raises:
        ConfigurationError: It is no provider.
    """
    if auth is not None and not is_provider(auth):
        raise ConfigurationError(f"auth={auth!r}: a provider, such as APIKeyAuth(keys), or None for everybody")
    check_platforms(auth)


def check_run(input: Any, session_id: Any = None, user_id: Any = None, metadata: Any = None, keep: Any = False) -> None:
    """Refuse what a run cannot be started with.

    Raises:
        ConfigurationError: The input is neither text nor a user's message, an id is no string (a store that keeps text
            would give back another one), the metadata is no mapping, or `keep` is no truth value.
    """
    if not isinstance(input, str) and not (isinstance(input, Message) and input.role == "user"):
        raise ConfigurationError(f"a run's input is a string or a user's Message, not {input!r}")
    if session_id is not None and not isinstance(session_id, str):
        raise ConfigurationError(f"session_id={session_id!r}: a string, such as str(...) of it, or None")
    if user_id is not None and not isinstance(user_id, str):
        raise ConfigurationError(f"user_id={user_id!r}: a string, such as str(...) of it, or None")
    if metadata is not None and not isinstance(metadata, Mapping):
        raise ConfigurationError(f"metadata={metadata!r}: a mapping, or None")
    if not isinstance(keep, bool):
        raise ConfigurationError(f"keep={keep!r}: True or False")


def check_interface(interface: Any) -> None:
    """Refuse what cannot be served as an interface.

    Raises:
        ConfigurationError: It does not receive, or is a class.
    """
    if isinstance(interface, type) or not callable(getattr(interface, "receive", None)):
        by_name = f"; by its name, agent.add_interface({interface!r}, ...)" if isinstance(interface, str) else ""
        raise ConfigurationError(f"{interface!r} is no interface: an object such as TelegramInterface(...){by_name}")


def installed_interface(name: str, settings: Mapping[str, Any]) -> Any:
    """Make the interface that an installed package has an entry point for, in the group `definable.interfaces`.

    Args:
        name: The entry point's.
        settings: Arguments of what it loads, say a class of interfaces.

    Raises:
        ConfigurationError: None of that name is installed, or it fails to load.
    """
    from importlib.metadata import entry_points  # takes long to import, and few need it

    installed = entry_points(group=INTERFACES)
    if name not in installed.names:
        known = ", ".join(sorted(installed.names)) or "none"
        raise ConfigurationError(f"no interface {name!r} in the entry point group {INTERFACES!r}: installed: {known}")
    entry = installed[name]
    try:
        make = entry.load()
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"the interface {name!r} ({entry.value}) fails to load: {error}") from error
    return make(**settings)
