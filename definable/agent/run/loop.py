"""The loop of one run: model, tool calls, model ... until a reply asks for no tools.

The runner hands it a conversation and gets back what was added to it. It knows nothing of sessions, hooks or triggers.
A reply that is cut off, withheld, failed or empty is no answer: none of its tool calls is made, and it is asked for
once more where that can help. What goes into the conversation is what every provider takes back (`session/history.py`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias

import anyio

from definable.agent.session.history import newest_half, repaired, repaired_reply
from definable.agent.tools.tool import Tool
from definable.concurrency.call import call_user, closing_what_it_leaves
from definable.concurrency.logs import logger_named
from definable.errors import (
    ContextWindowExceeded,
    EmptyReply,
    MaxTurnsExceeded,
    ModelError,
    ModelResponseError,
    OutputValidationError,
)
from definable.model.message import (
    Message,
    Model,
    ModelReply,
    ModelRequest,
    ToolCall,
    ToolDefinition,
)

from .context import RunContext
from .limits import UsageLimits
from .output import (
    NO_USAGE,
    Conversation,
    Listener,
    TextDelta,
    ToolCallEnded,
    ToolCallStarted,
    ToolExecution,
    failure_of,
)
from .output_type import RejectedReply, WantedOutput
from .telemetry import chat_span, tool_span

logger: logging.Logger = logger_named(__name__)

NOT_MADE = "not called: the answer was given in the same reply"
"""What a model is told of a call beside an answer that does not fit."""

ShortenHistory: TypeAlias = Callable[[tuple[Message, ...]], Sequence[Message] | Awaitable[Sequence[Message]]]
"""Makes a shorter history of one that is longer than the model takes; sync (in a worker thread) or async."""


class RunLoop:
    """One run's turns.

    Args:
        model: The language model.
        tools: The tools by name.
        context: Injected into tools that want it.
        max_turns: How many requests the model gets.
        output: Turns a final reply into the run's content; None: its text is.
        limits: What the run may spend.
        shorten: Makes a shorter history of one that is longer than the model takes; None: its oldest half is dropped.
        listener: Told what happens as it happens; the model then streams. None: nobody listens.
    """

    __slots__ = (
        "_context",
        "_definitions",
        "_has_told",
        "_limits",
        "_listener",
        "_max_turns",
        "_model",
        "_output",
        "_shorten",
        "_tools",
    )

    def __init__(
        self,
        model: Model,
        tools: Mapping[str, Tool],
        context: RunContext,
        max_turns: int,
        output: WantedOutput | None = None,
        limits: UsageLimits | None = None,
        shorten: ShortenHistory | None = None,
        listener: Listener | None = None,
    ) -> None:
        self._model = model
        self._tools = tools
        definitions = [tool.definition for tool in tools.values()]
        if output is not None and output.tool is not None:
            definitions.append(output.tool)
        self._definitions: tuple[ToolDefinition, ...] = tuple(definitions)
        self._context = context
        self._max_turns = max_turns
        self._output = output
        self._limits = limits
        self._shorten = shorten
        self._listener = listener
        self._has_told = False
        """Whether the listener has been told some text of the last reply."""

    async def run(self, conversation: Conversation) -> Any:
        """Go on until a reply is final.

        Returns:
            What `output` makes of the final reply; its text without one.

        Raises:
            MaxTurnsExceeded: The model still asked for tools at the last turn.
            OutputValidationError: The final reply does not fit, and was asked for once more or came in the last turn.
            UsageLimitExceeded: The run has spent what it may.
            ModelError: The provider failed, or its reply is no answer.
        """
        problem: Exception | None = None
        for _ in range(self._max_turns):
            reply = await self._turn(conversation)
            failure = failure_of(reply)
            if failure is not None:
                self._check_asking_again(failure, problem)
                problem = failure
                continue
            calls = self._add(reply, conversation)
            try:
                if not calls:
                    return reply.content if self._output is None else self._output.read(reply.content)
                problem = None
                answer = None if self._output is None else self._output.answer_call(reply)
                if answer is not None:
                    return self._answer(answer, calls, conversation)
            except RejectedReply as rejected:
                problem = rejected
                if not calls:
                    conversation.messages.append(Message("user", str(rejected)))
                continue
            await self._call_tools(calls, conversation)
        raise self._turns_are_over(problem, conversation)

    def _check_asking_again(self, failure: ModelError, before: Exception | None) -> None:
        """Raise the failure of a reply, unless asking once more may help and none of its text was shown."""
        is_empty = isinstance(failure, EmptyReply)
        may_help = is_empty or (isinstance(failure, ModelResponseError) and not self._has_told)
        if not may_help or isinstance(before, ModelError):
            raise failure
        logger.warning("run %s: %s; %s is asked once more", self._context.run_id, failure, self._model.id)

    def _turns_are_over(self, problem: Exception | None, conversation: Conversation) -> Exception:
        if isinstance(problem, RejectedReply):
            why = problem.__cause__ or problem
            error = OutputValidationError(
                f"the reply does not fit, and max_turns={self._max_turns} leaves no turn to ask once more: {why}"
            )
            error.__cause__ = why
            return error
        return problem or MaxTurnsExceeded(
            f"the model was not done after {self._max_turns} turns: raise max_turns, or see why it keeps calling "
            f"{', '.join(sorted({call.name for call in conversation.tool_calls})) or 'nothing'}"
        )

    async def _turn(self, conversation: Conversation) -> ModelReply:
        if self._limits is not None:
            self._limits.check_request(conversation.requests, conversation.usage)
        request = ModelRequest(
            tuple(conversation.messages), self._definitions, None if self._output is None else self._output.schema
        )
        conversation.requests += 1
        try:
            with chat_span(self._model, self._context) as span:
                if self._listener is None:
                    reply = await closing_what_it_leaves(self._model.reply, self._model.reply, request)
                else:
                    reply = await closing_what_it_leaves(self._model.stream, self._streamed, request, self._listener)
                span.replied(reply)
        except ContextWindowExceeded as error:
            if conversation.is_shortened or conversation.history_begin == conversation.begin:
                raise
            await self._shorten_history(conversation, error)
            return await self._turn(conversation)
        used = conversation.usage
        conversation.usage = reply.usage if used is NO_USAGE else used + reply.usage
        conversation.model = reply.model or conversation.model
        conversation.finish_reason = reply.finish_reason
        return reply

    async def _shorten_history(self, conversation: Conversation, error: ContextWindowExceeded) -> None:
        history, shorter = conversation.history, None
        if self._shorten is not None:
            try:
                shorter = repaired(tuple(await call_user(self._shorten, history)))
            except Exception:
                logger.exception("history= failed; the oldest half of the history is dropped instead")
        if shorter is None:
            shorter = newest_half(history)
        conversation.shorten(shorter)
        logger.warning(
            "session %s: %d messages of history are more than %s takes, it is asked once more with %d: %s",
            self._context.session_id,
            len(history),
            self._model.id,
            len(shorter),
            error,
        )

    def _add(self, reply: ModelReply, conversation: Conversation) -> tuple[ToolCall, ...]:
        """Add a reply to the conversation; returns its calls as the model made them, each with an id of its own."""
        calls = reply.tool_calls
        message = Message(
            "assistant", reply.content, calls, None, (), reply.reasoning, reply.provider, reply.provider_data
        )
        if calls:
            message = repaired_reply(message)
            if message.tool_calls is not calls:
                ids = [call.id for call in message.tool_calls]
                calls = tuple([ToolCall(call.name, call.arguments, id) for call, id in zip(calls, ids, strict=True)])
        conversation.messages.append(message)
        return calls

    def _answer(self, answer: ToolCall, calls: tuple[ToolCall, ...], conversation: Conversation) -> Any:
        """The value of a call that is the answer; it is kept as an assistant's text, since no result follows it."""
        assert self._output is not None
        asked = conversation.messages[-1]
        try:
            value = self._output.read(answer.arguments)
        except RejectedReply as rejected:
            for call in calls:
                told = str(rejected) if call.name == answer.name else NOT_MADE
                conversation.messages.append(Message("tool", told, tool_call_id=call.id))
            raise
        conversation.messages[-1] = Message("assistant", answer.arguments, reasoning=asked.reasoning)
        return value

    async def _streamed(self, request: ModelRequest, listener: Listener) -> ModelReply:
        self._has_told = False
        async with self._model.stream(request) as deltas:
            async for delta in deltas:
                if delta.text:
                    self._has_told = True
                    await listener(TextDelta(delta.text))
                if delta.reply is not None:
                    return delta.reply
        raise ModelResponseError(f"the stream of {self._model.id} ended without a whole reply")

    async def _call_tools(self, calls: tuple[ToolCall, ...], conversation: Conversation) -> None:
        """Call all tools of one reply at once; their results go back in the order of the calls."""
        if self._limits is not None:
            self._limits.check_tool_calls(len(conversation.tool_calls), len(calls), conversation.usage)
        executions: list[ToolExecution | None] = [None] * len(calls)
        try:
            if len(calls) == 1:
                executions[0] = await self._execute(calls[0])
            else:
                await self._execute_at_once(calls, executions)
        finally:  # of a run that is cut off here, what was done is told as well
            for execution in executions:
                if execution is not None:
                    conversation.tool_calls.append(execution)
                    conversation.messages.append(
                        Message("tool", execution.result, tool_call_id=execution.id, images=execution.media)
                    )

    async def _execute_at_once(self, calls: tuple[ToolCall, ...], executions: list[ToolExecution | None]) -> None:
        async def execute(index: int) -> None:
            executions[index] = await self._execute(calls[index])

        async with anyio.create_task_group() as group:
            for index in range(len(calls)):
                group.start_soon(execute, index)

    def _execute(self, call: ToolCall) -> Awaitable[ToolExecution]:
        return self._call_tool(call) if self._listener is None else self._call_tool_heard(call, self._listener)

    async def _call_tool_heard(self, call: ToolCall, listener: Listener) -> ToolExecution:
        await listener(ToolCallStarted(call))
        execution = await self._call_tool(call)
        await listener(ToolCallEnded(execution))
        return execution

    async def _call_tool(self, call: ToolCall) -> ToolExecution:
        with tool_span(call.name, call.id) as span:
            started = time.perf_counter()
            tool = self._tools.get(call.name)
            if tool is None:
                error = f"unknown tool {call.name!r}; there is {', '.join(sorted(self._tools)) or 'none'}"
                execution = ToolExecution(call.id, call.name, call.arguments, f"Error: {error}", error)
            else:
                result = await tool.call(call.arguments, self._context)
                duration = time.perf_counter() - started
                execution = ToolExecution(
                    call.id,
                    call.name,
                    call.arguments,
                    result.content,
                    result.error,
                    duration,
                    result.media,
                    result.buttons,
                )
            span.called(execution)
        return execution
