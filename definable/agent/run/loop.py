"""The loop of one run: model, tool calls, model ... until a reply asks for no tools.

The runner hands it a conversation and gets back what was added to it. It knows nothing of sessions, hooks or triggers.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio

from definable.agent.tools.tool import Tool
from definable.concurrency.call import closing_what_it_leaves
from definable.errors import MaxTurnsExceeded, ModelResponseError, OutputValidationError
from definable.model.message import (
    Message,
    Model,
    ModelReply,
    ModelRequest,
    OutputSchema,
    ToolCall,
    ToolDefinition,
    Usage,
)

from .context import RunContext
from .output import CheckReply, Listener, RejectedReply, TextDelta, ToolCallEnded, ToolCallStarted, ToolExecution
from .telemetry import chat_span, tool_span

NO_USAGE = Usage()


@dataclass(slots=True)
class Conversation:
    """What a run adds up, turn by turn."""

    messages: list[Message]
    """All that the model sees: instructions, history, and what this run added."""
    begin: int
    """Where this run's messages begin."""
    tool_calls: list[ToolExecution] = field(default_factory=list[ToolExecution])
    usage: Usage = NO_USAGE
    model: str | None = None

    @property
    def added(self) -> tuple[Message, ...]:
        """What this run added, its input first."""
        return tuple(self.messages[self.begin :])


class RunLoop:
    """One run's turns.

    Args:
        model: The language model.
        tools: The tools by name.
        context: Injected into tools that want it.
        max_turns: How many requests the model gets.
        check: Turns a final reply into the run's content; None: its text is.
        output_schema: What a final reply must fit, for the model to know.
        listener: Told what happens as it happens; the model then streams. None: nobody listens.
    """

    __slots__ = (
        "_check",
        "_context",
        "_definitions",
        "_listener",
        "_max_turns",
        "_model",
        "_output_schema",
        "_tools",
    )

    def __init__(
        self,
        model: Model,
        tools: Mapping[str, Tool],
        context: RunContext,
        max_turns: int,
        check: CheckReply | None = None,
        output_schema: OutputSchema | None = None,
        listener: Listener | None = None,
    ) -> None:
        self._model = model
        self._tools = tools
        self._definitions: tuple[ToolDefinition, ...] = tuple([tool.definition for tool in tools.values()])
        self._context = context
        self._max_turns = max_turns
        self._check = check
        self._output_schema = output_schema
        self._listener = listener

    async def run(self, conversation: Conversation) -> Any:
        """Go on until a reply is final.

        Returns:
            What `check` makes of the final reply; its text without one.

        Raises:
            MaxTurnsExceeded: The model still asked for tools at the last turn.
            OutputValidationError: The final reply does not fit, and was asked for once more or came in the last turn.
            ModelError: The provider failed.
        """
        rejection: RejectedReply | None = None
        for _ in range(self._max_turns):
            reply = await self._turn(conversation)
            if reply.tool_calls:
                rejection = None
                await self._call_tools(reply.tool_calls, conversation)
                continue
            if self._check is None:
                return reply.content
            try:
                return self._check(reply)
            except RejectedReply as rejected:
                rejection = rejected
                conversation.messages.append(Message("user", str(rejection)))
        if rejection is not None:
            why = rejection.__cause__ or rejection
            raise OutputValidationError(
                f"the reply does not fit, and max_turns={self._max_turns} leaves no turn to ask once more: {why}"
            ) from why
        raise MaxTurnsExceeded(
            f"the model was not done after {self._max_turns} turns: raise max_turns, or see why it keeps calling "
            f"{', '.join(sorted({call.name for call in conversation.tool_calls})) or 'nothing'}"
        )

    async def _turn(self, conversation: Conversation) -> ModelReply:
        request = ModelRequest(tuple(conversation.messages), self._definitions, self._output_schema)
        with chat_span(self._model, self._context) as span:
            if self._listener is None:
                reply = await closing_what_it_leaves(self._model.reply, self._model.reply, request)
            else:
                reply = await closing_what_it_leaves(self._model.stream, self._streamed, request, self._listener)
            span.replied(reply)
        conversation.messages.append(Message("assistant", reply.content, reply.tool_calls))
        conversation.usage += reply.usage
        conversation.model = reply.model or conversation.model
        return reply

    async def _streamed(self, request: ModelRequest, listener: Listener) -> ModelReply:
        async with self._model.stream(request) as deltas:
            async for delta in deltas:
                if delta.text:
                    await listener(TextDelta(delta.text))
                if delta.reply is not None:
                    return delta.reply
        raise ModelResponseError(f"the stream of {self._model.id} ended without a whole reply")

    async def _call_tools(self, calls: tuple[ToolCall, ...], conversation: Conversation) -> None:
        """Call all tools of one reply at once; their results go back in the order of the calls."""
        executions: list[ToolExecution | None] = [None] * len(calls)

        async def execute(index: int) -> None:
            executions[index] = await self._execute(calls[index])

        if len(calls) == 1:
            await execute(0)
        else:
            async with anyio.create_task_group() as group:
                for index in range(len(calls)):
                    group.start_soon(execute, index)
        for execution in executions:
            assert execution is not None
            conversation.tool_calls.append(execution)
            conversation.messages.append(Message("tool", execution.result, tool_call_id=execution.id))

    async def _execute(self, call: ToolCall) -> ToolExecution:
        if self._listener is None:
            return await self._call_tool(call)
        await self._listener(ToolCallStarted(call))
        execution = await self._call_tool(call)
        await self._listener(ToolCallEnded(execution))
        return execution

    async def _call_tool(self, call: ToolCall) -> ToolExecution:
        with tool_span(call.name, call.id) as span:
            execution = await self._call(call)
            span.called(execution)
        return execution

    async def _call(self, call: ToolCall) -> ToolExecution:
        started = time.perf_counter()
        tool = self._tools.get(call.name)
        if tool is None:
            error = f"unknown tool {call.name!r}; there is {', '.join(sorted(self._tools)) or 'none'}"
            return ToolExecution(call.id, call.name, call.arguments, f"Error: {error}", error)
        result = await tool.call(call.arguments, self._context)
        duration = time.perf_counter() - started
        return ToolExecution(
            call.id, call.name, call.arguments, result=result.content, error=result.error, duration=duration
        )
