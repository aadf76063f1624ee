"""What programs of the library that this one took its page from write, and what is written here in its place: pure.

Where both names can be, the original one is accepted as an alias. What is in these tables is not: the error names the
way out. `docs/migration.md` has the same as a guide.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import NoReturn

AGENT_ARGUMENTS = {
    "session_id": "a session belongs to a run: agent.run(..., session_id=...)",
    "user_id": "a user belongs to a run: agent.run(..., user_id=...)",
    "memory": "conversations are kept by sessions=SQLiteSessionStore(path); anything else by a tool of yours",
    "knowledge": "give the model a tool that searches: tools=[search]",
    "thinking": "it is an option of the model: OpenAIChat(id, reasoning_effort='high')",
    "deep_research": "give the model a tool that searches, and say in instructions how to use it",
    "toolkits": "tools=[...] takes functions: list those of the toolkit",
    "skills": "a skill's text goes into instructions, its functions into tools=[...]",
    "skill_registry": "a skill's text goes into instructions, its functions into tools=[...]",
    "tracing": "install definable[otel] and set a tracer provider of OpenTelemetry: spans are then made by themselves",
    "debug": "logging.getLogger('definable').setLevel('DEBUG')",
    "sub_agents": "give the model a tool that calls `await other.arun(...)`",
    "readers": "read the file in a tool or before the run, and put its text into the input",
    "guardrails": "refuse in a trigger's handler (return None or a Reply) or in a tool (raise)",
    "config": "its fields are arguments of Agent: name, max_turns, run_timeout, ...",
    "markdown": "say it in instructions",
    "retries": "it is an option of the model, OpenAIChat(id, max_retries=2), and of every trigger, retries=3",
    "max_iterations": "write max_turns",
    "description": "put it into instructions",
}
"""Of `Agent(...)`."""

RUN_ARGUMENTS = {
    "messages": "the session holds them: session_id=first.session_id",
    "run_id": "every run makes its own: output.run_id, and context.run_id in hooks and tools",
    "images": "give the run a message: Message('user', text, images=(Image(...),))",
    "audio": "transcribe it first, and put the text into the input",
    "videos": "describe them in the input",
    "files": "read them, and put their text into the input",
    "output_schema": "it belongs to the agent: Agent(output_type=...)",
    "stream": "async with agent.arun_stream(...) as events",
}
"""Of `Agent.run`, `arun` and `arun_stream`."""

AGENT_ATTRIBUTES = {
    "run_stream": "async with agent.arun_stream(...) as events: async for event in events",
    "use": "register hooks: @agent.before_request, @agent.after_response, @agent.on_error",
    "agent_name": "write agent.name",
    "agent_id": "write agent.name",
    "tool_names": "they are the functions that were given as tools=[...]",
    "events": "follow a run with agent.arun_stream(...); agent.emit(...) and EventTrigger are for events of your own",
    "replay": "run again: agent.run(..., session_id=output.session_id)",
    "compare": "run twice, and compare the outputs",
    "continue_run": "go on with the session: agent.run(..., session_id=output.session_id)",
    "memory": "conversations are kept by agent.sessions",
    "config": "its fields are arguments of Agent",
}
"""Of an agent."""

OUTPUT_ATTRIBUTES = {
    "to_dict": "dataclasses.asdict(output)",
    "to_json": "json.dumps(dataclasses.asdict(output), default=str)",
    "metrics": "write output.usage and output.duration",
    "tools": "write output.tool_calls",
    "agent_name": "write agent.name",
    "agent_id": "write agent.name",
    "reasoning_content": "it is not kept",
    "event": "follow a run with agent.arun_stream(...)",
}
"""Of a `RunOutput`."""

CONTEXT_ATTRIBUTES = {
    "dependencies": "put them into metadata: agent.run(..., metadata={...})",
    "knowledge_filters": "put them into metadata: agent.run(..., metadata={...})",
    "output_schema": "it belongs to the agent: Agent(output_type=...)",
}
"""Of a `RunContext`."""

INTERFACE_ATTRIBUTES = {
    "bind": "give it to what serves it, agent.serve(interface), or name its agent: agent=...",
    "start": "it is served along with its agent: agent.serve(interface), or async with agent.running(interface)",
    "stop": "it stops along with its agent: runtime.stop(), or the end of `async with agent.running(interface)`",
    "serve_forever": "it is served along with its agent: agent.serve(interface)",
    "handle_platform_message": "`receive(accept)` hands every message on: await accept(InterfaceMessage(...))",
}
"""Of an interface."""

INTERFACE_CONTEXT = "it is served along with its agent: agent.serve(interface), or async with agent.running(interface)"
"""Of `async with interface`."""

INTERFACE_METHODS = ("_start_receiver", "_stop_receiver", "_convert_inbound", "_send_response")
"""What a platform of one's own implemented there."""

API_KEY_ATTRIBUTES = {"keys": "they are not read back: keep them where they came from, such as an environment variable"}
"""Of an `APIKeyAuth`."""

MODULE_NAMES = {
    "definable.agent.trigger": {
        "TriggerExecutor": "a handler's return value starts the run; agent.fire(trigger) fires one by hand",
        "TriggerResult": "a handler's return value starts the run",
    },
    "definable.agent.auth": {"resolve_auth": "providers are asked where a request comes in: agent.auth = provider"},
    "definable.agent.interface": {"serve": "write agent.serve(first, second)"},
}
"""Of the packages that both have."""


def unknown_arguments(function: str, given: Iterable[str], known: Iterable[str], hints: Mapping[str, str]) -> NoReturn:
    """Refuse keyword arguments that a function does not have.

    Args:
        function: As its caller writes it.
        given: The unknown ones; the first is named.
        known: Those that the function has.
        hints: What to write here, by argument of the original library.

    Raises:
        TypeError: Always, as of every function.
    """
    name = next(iter(given))
    hint = hints.get(name)
    if hint is None:
        close = difflib.get_close_matches(name, list(known), n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"it takes {', '.join(known)}"
    raise TypeError(f"{function} has no argument {name!r}: {hint}")


def unknown_attribute(owner: str, name: str, hints: Mapping[str, str]) -> AttributeError:
    """The error for an attribute that an object does not have.

    Args:
        owner: The object's class.
        name: The attribute.
        hints: What to write here, by attribute of the original library.
    """
    hint = hints.get(name)
    return AttributeError(f"{owner!r} object has no attribute {name!r}" + ("" if hint is None else f": {hint}"))
