"""Replies that are shown while they are written, on a platform in memory and in virtual time."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopback.slow_typist import SlowTypist
from pydantic import BaseModel

from definable.agent import Agent
from definable.agent.interface import (
    Accept,
    BaseInterface,
    InterfaceConfig,
    InterfaceConnectionError,
    InterfaceHook,
    InterfaceMessage,
    InterfaceMessageError,
    InterfaceRateLimitError,
    InterfaceResponse,
    InterfaceSession,
    LoggingHook,
    Media,
)
from definable.agent.interface.message import MessageEnd
from definable.agent.interface.pipeline import AgentHandle, Pipeline
from definable.agent.interface.splitting import split_text
from definable.agent.runtime.runs import RunRegistry
from definable.agent.runtime.supervisor import handle_for
from definable.model import ModelReply, OfflineModel, ToolCall
from definable.testing import VIRTUAL_BACKENDS, run, virtual_time

pytestmark = pytest.mark.anyio

SORRY = "Sorry, something went wrong. Please try again."

COUNTING = " ".join(str(number) for number in range(20))
"""Five seconds of a slow typist's work."""


@pytest.fixture(params=VIRTUAL_BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Iterator[object]:
    with virtual_time(request.param) as backend:
        yield backend


class Plain(BaseInterface):
    """A platform that can send, and no more."""

    def __init__(self, *, hooks: Any = (), **settings: Any) -> None:
        settings = {"platform": "board", "rate_limit_messages_per_minute": 10_000} | settings
        super().__init__(InterfaceConfig(**{"collect": 0, **settings}), hooks=hooks)
        self.shown: dict[str, str | None] = {}
        self.log: list[tuple[float, str, str]] = []
        """When, what and which text."""
        self.media: list[Media] = []
        self.typed: list[float] = []
        self._number = 0

    async def receive(self, accept: Accept) -> None:
        raise NotImplementedError

    async def send(self, message: InterfaceMessage, response: InterfaceResponse) -> None:
        self.media += response.files
        if response.content is not None:
            self._write("send", str(len(self.shown)), response.content)

    async def typing(self, message: InterfaceMessage) -> None:
        self.typed.append(anyio.current_time())

    async def ask(self, agent: Agent) -> bool:
        """A user writes to an agent; whether that was answered."""
        self._number += 1
        message = InterfaceMessage("board", "ann", "home", str(self._number), text="hi")
        end = await Pipeline(self, handle_for(self, agent, RunRegistry(agent.runner, 10))).answer(message)
        return end is MessageEnd.HANDLED

    def actions(self) -> list[str]:
        return [action for _, action, _ in self.log]

    def texts(self) -> list[str | None]:
        return list(self.shown.values())

    def _write(self, action: str, id: str, text: str) -> None:
        self.log.append((anyio.current_time(), action, text))
        self.shown[id] = text


class Board(Plain):
    """A platform that can edit what it has posted, slowly and with faults."""

    def __init__(self, *, latency: float = 0.1, **options: Any) -> None:
        super().__init__(**options)
        self.latency = latency
        self.faults: dict[str, list[Exception]] = {"post": [], "edit": [], "delete": []}
        self.cancelled = 0

    async def post(self, message: InterfaceMessage, text: str) -> str | None:
        await self._fail_or("post")
        id = str(len(self.shown))
        self._write("post", id, text)
        await self._wait()
        return id

    async def edit(self, message: InterfaceMessage, posted: str, text: str) -> None:
        await self._fail_or("edit")
        if posted not in self.shown:
            raise InterfaceMessageError("no such message")
        self._write("edit", posted, text)
        await self._wait()

    async def delete(self, message: InterfaceMessage, posted: str) -> None:
        await self._fail_or("delete")
        self.log.append((anyio.current_time(), "delete", self.shown.pop(posted) or ""))

    async def _fail_or(self, action: str) -> None:
        if self.faults[action]:
            self.log.append((anyio.current_time(), f"failed {action}", ""))
            raise self.faults[action].pop(0)

    async def _wait(self) -> None:
        try:
            await anyio.sleep(self.latency)
        except BaseException:
            self.cancelled += 1
            raise


def counting(**options: Any) -> Agent:
    return Agent(SlowTypist(COUNTING, **options))


async def test_a_quick_reply_is_one_whole_message() -> None:
    board = Board()
    assert await board.ask(Agent(SlowTypist("one two three", pause=0.3)))
    assert [(action, text) for _, action, text in board.log] == [("send", "one two three")]


async def test_a_long_one_is_posted_after_a_second_and_edited_once_a_second_until_it_is_whole() -> None:
    board = Board()
    began = anyio.current_time()
    assert await board.ask(counting())
    assert (board.texts(), board.actions()) == ([COUNTING], ["post", "edit", "edit", "edit", "edit"])
    assert board.log[0][0] == pytest.approx(began + 0.25 + 1.0)
    assert all(later - former >= 1.0 for (former, *_), (later, *_) in pairwise(board.log))
    assert all(COUNTING.startswith(text) for _, _, text in board.log)


async def test_typing_goes_on_while_it_is_written() -> None:
    board = Board()
    await board.ask(counting(pause=0.5))
    assert [later - former for former, later in pairwise(board.typed)] == pytest.approx([4.0, 4.0])


@pytest.mark.parametrize("board", [Plain, lambda: Board(stream_replies=False)])
async def test_without_edits_or_when_told_so_the_model_is_asked_for_its_whole_reply(board: Any) -> None:
    class Whole(OfflineModel):
        def stream(self, request: Any) -> Any:
            raise AssertionError("nobody listens")

    interface = board()
    assert await interface.ask(Agent(Whole(COUNTING)))
    assert interface.actions() == ["send"]


async def test_a_platform_that_declines_a_chat_sends_the_reply_whole() -> None:
    class Declines(Board):
        async def post(self, message: InterfaceMessage, text: str) -> str | None:
            return None

    board = Declines()
    assert await board.ask(counting())
    assert (board.actions(), board.texts()) == (["send"], [COUNTING])


async def test_a_reply_of_several_messages_grows_one_after_the_other() -> None:
    board = Board(max_message_length=12)
    assert await board.ask(counting())
    assert board.texts() == split_text(COUNTING, 12)
    assert len(board.texts()) == 5 and "edit" in board.actions()


async def test_a_turn_after_tools_takes_the_place_of_the_one_before() -> None:
    async def look_up() -> str:
        """Look it up."""
        await anyio.sleep(3)
        return "7"

    call = ModelReply("Let me look that up for you, one moment", tool_calls=(ToolCall("look_up", {}),))
    board = Board()
    assert await board.ask(Agent(SlowTypist(call, "It is 7"), tools=[look_up]))
    assert board.log[1][2].startswith("Let me look") and board.texts() == ["It is 7"]


async def test_messages_that_the_reply_does_not_need_after_all_are_taken_back() -> None:
    async def look_up() -> str:
        """Look it up."""
        return "7"

    call = ModelReply(COUNTING, tool_calls=(ToolCall("look_up", {}),))
    board = Board(max_message_length=12)
    assert await board.ask(Agent(SlowTypist(call, "It is 7"), tools=[look_up]))
    assert (board.texts(), board.cancelled) == (["It is 7"], 0)


async def test_a_message_that_cannot_be_taken_back_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    async def look_up() -> str:
        """Look it up."""
        return "7"

    board = Board(max_message_length=12)
    board.faults["delete"] = [ValueError("oh")] * 10
    call = ModelReply(COUNTING, tool_calls=(ToolCall("look_up", {}),))
    assert await board.ask(Agent(SlowTypist(call, "It is 7"), tools=[look_up]))
    assert board.texts()[0] == "It is 7" and "could not be deleted" in caplog.text


async def test_a_platform_without_deletion_leaves_an_ellipsis() -> None:
    class Keeps(Board):
        delete = BaseInterface.delete

    async def look_up() -> str:
        """Look it up."""
        return "7"

    board = Keeps(max_message_length=24)
    call = ModelReply(COUNTING, tool_calls=(ToolCall("look_up", {}),))
    assert await board.ask(Agent(SlowTypist(call, "It is 7"), tools=[look_up]))
    assert board.texts() == ["It is 7", "…"]


# --- who may see it


class Shouts(InterfaceHook):
    async def on_after_respond(
        self, message: InterfaceMessage, response: InterfaceResponse, session: InterfaceSession
    ) -> InterfaceResponse:
        return InterfaceResponse(f"{response.content}!", files=(Media(b"x"),))


class Watches:
    """Of hooks' methods it has one."""

    def on_error(self, error: Exception, message: InterfaceMessage) -> None: ...


async def test_nobody_sees_a_reply_before_the_hook_that_may_replace_it() -> None:
    board = Board(hooks=[InterfaceHook(), Shouts()])
    assert await board.ask(counting())
    assert (board.actions(), board.texts()) == (["send"], [f"{COUNTING}!"])


async def test_hooks_that_only_look_on_do_not_hold_it_back() -> None:
    board = Board(hooks=[LoggingHook(), InterfaceHook(), Watches()])
    assert await board.ask(counting())
    assert board.actions()[0] == "post"


async def test_a_hook_that_says_it_looks_on_may_still_replace_it() -> None:
    shouts = Shouts()
    shouts.holds_back_replies = False  # pyright: ignore[reportAttributeAccessIssue]
    board = Board(hooks=[shouts])
    assert await board.ask(counting())
    assert (board.texts(), len(board.media)) == ([f"{COUNTING}!"], 1)


async def test_an_object_is_sent_whole() -> None:
    class Answer(BaseModel):
        number: int

    board = Board()
    assert await board.ask(Agent(SlowTypist('{"number": 7 }', pause=2), output_type=Answer))
    assert (board.actions(), board.texts()) == (["send"], ['{"number":7}'])


# --- what fails


async def test_a_run_that_fails_says_so_after_what_was_shown() -> None:
    board = Board()
    assert not await board.ask(counting(fails_after=8))
    beginning, sorry = board.texts()
    assert board.actions() == ["post", "send"] and COUNTING.startswith(beginning or "?") and sorry == SORRY


@pytest.mark.parametrize("action", ["post", "edit"])
async def test_a_request_under_way_when_the_run_ends_is_waited_for(action: str) -> None:
    board = Board(latency=3)
    assert await board.ask(Agent(SlowTypist("0 1 2 3 4 5" if action == "post" else COUNTING, pause=0.25)))
    assert board.cancelled == 0
    assert len(board.texts()) == 1 and board.actions()[-1] == "edit"


async def test_a_post_that_may_have_come_through_is_not_made_again() -> None:
    board = Board()
    board.faults["post"] = [InterfaceConnectionError("no answer")]
    assert await board.ask(counting())
    assert (board.actions(), board.texts()) == (["failed post", "send"], [COUNTING])


async def test_a_post_that_exits_leaves_the_reply_to_the_end() -> None:
    class Leaves(Board):
        async def post(self, message: InterfaceMessage, text: str) -> str | None:
            sys.exit(3)

    board = Leaves()
    assert await board.ask(counting())
    assert board.texts() == [COUNTING]


async def test_a_second_post_that_fails_leaves_the_rest_to_the_end() -> None:
    class Once(Board):
        async def post(self, message: InterfaceMessage, text: str) -> str | None:
            id = await super().post(message, text)
            self.faults["post"] = [InterfaceRateLimitError("slow down", retry_after=1)]
            return id

    board = Once(max_message_length=12)
    assert await board.ask(counting())
    assert board.actions().count("failed post") == 1
    assert board.texts() == split_text(COUNTING, 12)


async def test_an_edit_that_fails_is_left_to_the_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    board = Board()
    board.faults["edit"] = [ValueError("oh")]
    assert await board.ask(counting())
    assert (board.actions(), board.texts()) == (["post", "failed edit", "edit"], [COUNTING])
    assert not caplog.records


async def test_a_rate_limit_is_honoured_by_the_edits_that_follow() -> None:
    board = Board()
    board.faults["edit"] = [InterfaceRateLimitError("slow down", retry_after=2.5)]
    assert await board.ask(counting())
    times = [at for at, action, _ in board.log if action.endswith("edit")]
    assert times[1] - times[0] == pytest.approx(2.5) and board.texts() == [COUNTING]


async def test_the_last_edit_is_tried_again_until_it_arrives() -> None:
    board = Board()
    board.faults["edit"] = [
        ValueError("given up until the end"),
        InterfaceConnectionError("no answer"),
        InterfaceRateLimitError("slow down", retry_after=30),
        InterfaceRateLimitError("slow down"),
        InterfaceConnectionError("no answer"),
    ]
    assert await board.ask(counting())
    assert (board.texts(), board.actions()[-1]) == ([COUNTING], "edit")
    times = [at for at, *_ in board.log]
    assert [later - former for former, later in pairwise(times)][2:] == pytest.approx([1, 30, 4, 8])


async def test_a_last_edit_that_never_arrives_fails_the_message() -> None:
    board = Board()
    board.faults["edit"] = [InterfaceConnectionError("no answer")] * 20
    assert not await board.ask(counting())
    assert board.texts()[-1] == SORRY
    assert board.actions().count("failed edit") <= 6


async def test_a_last_edit_that_must_wait_for_hours_is_a_message_of_its_own() -> None:
    board = Board()
    board.faults["edit"] = [InterfaceRateLimitError("hours", retry_after=7200)] * 20
    assert await board.ask(counting())
    assert (board.texts()[-1], board.actions()[-1]) == (COUNTING, "send")


async def test_a_message_that_is_gone_at_the_end_is_sent_anew() -> None:
    class Moderated(Board):
        async def post(self, message: InterfaceMessage, text: str) -> str | None:
            id = await super().post(message, text)
            del self.shown[str(id)]
            return id

    board = Moderated()
    assert await board.ask(counting())
    assert (board.texts(), board.actions()) == ([COUNTING], ["post", "send"])


async def test_a_cancelled_reply_is_cancelled_at_once() -> None:
    board, began = Board(latency=100), anyio.current_time()
    with anyio.move_on_after(3):
        await board.ask(counting())
    assert (anyio.current_time() - began, board.cancelled) == (pytest.approx(3), 1)


async def test_a_run_that_is_cancelled_by_its_id_cancels_no_request() -> None:
    board, agent = Board(latency=3), counting()
    registry = RunRegistry(agent.runner, 10)
    message = InterfaceMessage("board", "ann", "home", "1", text="hi")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Pipeline(board, handle_for(board, agent, registry)).answer, message)
        await anyio.sleep(2)
        (record,) = registry.records()
        assert registry.cancel(record.run_id)
    assert (board.cancelled, board.texts()[-1], board.actions()) == (0, SORRY, ["post", "send"])


async def test_a_host_that_cannot_stream_has_whole_replies() -> None:
    board = Board()
    pipeline = Pipeline(board, AgentHandle(counting().runner.run))
    await pipeline.answer(InterfaceMessage("board", "ann", "home", "1", text="hi"))
    assert board.actions() == ["send"]


def test_the_pause_between_edits_is_the_platform_s() -> None:
    assert BaseInterface.edit_interval == 1.0


TEXT = st.lists(st.one_of(st.text(max_size=6), st.sampled_from(["word ", "\n\n", "```py\n", "\n```\n", "😀", "**"])))
"""A reply that is not empty: the loop asks for another in place of an empty one."""


FAULTS = st.sampled_from(
    [
        InterfaceConnectionError("no answer"),
        InterfaceRateLimitError("slow down", retry_after=3),
        InterfaceRateLimitError("slow down"),
    ]
)


@given(
    TEXT.map("".join).filter(str.strip),
    st.lists(st.integers(1, 40), max_size=20),
    st.integers(8, 60),
    st.floats(0.0, 2.0),
    st.fixed_dictionaries({"post": st.lists(FAULTS, max_size=2), "edit": st.lists(FAULTS, max_size=4)}),
)
def test_what_is_shown_at_the_end_is_the_reply_however_it_was_cut_and_whatever_failed(
    text: str, cuts: list[int], limit: int, pause: float, faults: dict[str, list[Exception]]
) -> None:
    def chunks(whole: str) -> list[str]:
        ends = list(accumulate([*cuts, len(whole)], initial=0))
        return [whole[start:end] for start, end in pairwise(ends)]

    async def ask() -> Board:
        board = Board(max_message_length=limit)
        board.faults |= {action: list(errors) for action, errors in faults.items()}
        assert await board.ask(Agent(SlowTypist(text, pause=pause, cut=chunks)))
        return board

    board = run(ask)
    assert (board.texts(), board.cancelled) == (split_text(text, limit), 0)
