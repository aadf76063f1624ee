"""A strict loopback server that speaks Anthropic's Messages API over a real socket, on asyncio and on trio.

It refuses what the API refuses, in its words where they are documented, and streams its events. Rules:
https://platform.claude.com/docs/en/api/messages, .../api/errors, .../build-with-claude/extended-thinking and
.../agents-and-tools/tool-use/implement-tool-use (the order of `tool_result` blocks).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import h11
from anyio.abc import SocketStream

from .openai_server import OpenAIServer, Received, _next_event, _Sender

SIGNATURE = "EqQBCgIYAhIM1gbcDa9GJwZA2b3h"


@dataclass(frozen=True)
class Says:
    """A good answer: its blocks in their order."""

    text: str = ""
    thinking: str = ""
    redacted: str = ""
    calls: Sequence[tuple[str, str, Mapping[str, Any]]] = ()
    """(id, name, input)."""
    stop_reason: str | None = None
    events: int | None = None
    """How many events are sent before `then`; None: all."""
    then: Literal["end", "disconnect", "stall"] | bytes = "end"

    def stream(self) -> Iterator[dict[str, Any]]:
        usage = {
            "input_tokens": 9,
            "cache_creation_input_tokens": 20,
            "cache_read_input_tokens": 300,
            "output_tokens": 1,
        }
        head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-5"}
        stop: dict[str, Any] = {"stop_reason": None, "stop_sequence": None}
        yield {"type": "message_start", "message": head | {"content": [], "usage": usage} | stop}
        yield {"type": "ping"}
        for index, (block, deltas) in enumerate(self._blocks()):
            yield {"type": "content_block_start", "index": index, "content_block": block}
            for delta in deltas:
                yield {"type": "content_block_delta", "index": index, "delta": delta}
            yield {"type": "content_block_stop", "index": index}
        reason = self.stop_reason or ("tool_use" if self.calls else "end_turn")
        counts = {"output_tokens": 12} | ({"output_tokens_details": {"thinking_tokens": 5}} if self.thinking else {})
        yield {"type": "message_delta", "delta": stop | {"stop_reason": reason}, "usage": counts}
        yield {"type": "message_stop"}

    def _blocks(self) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
        if self.redacted:
            yield {"type": "redacted_thinking", "data": self.redacted}, []
        if self.thinking:
            pieces = [{"type": "thinking_delta", "thinking": word} for word in _words(self.thinking)]
            signed = {"type": "signature_delta", "signature": SIGNATURE}
            yield {"type": "thinking", "thinking": "", "signature": ""}, [*pieces, signed]
        if self.text:
            yield {"type": "text", "text": ""}, [{"type": "text_delta", "text": word} for word in _words(self.text)]
        for id, name, arguments in self.calls:
            text = json.dumps(arguments)
            pieces = [{"type": "input_json_delta", "partial_json": ""}] + [
                {"type": "input_json_delta", "partial_json": text[at : at + 4]} for at in range(0, len(text), 4)
            ]
            yield {"type": "tool_use", "id": id, "name": name, "input": {}}, pieces


@dataclass(frozen=True)
class Fails:
    """An error answer."""

    status: int
    type: str
    message: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    def body(self) -> bytes:
        error = {"type": self.type, "message": self.message}
        return json.dumps({"type": "error", "error": error, "request_id": "req_1"}).encode()


class AnthropicServer(OpenAIServer):
    """The server; see the module."""

    def __init__(self) -> None:
        super().__init__(key="sk-ant-loopback-123")
        self.refused: list[Fails] = []

    @property
    def base_url(self) -> str:
        return self.url.removesuffix("/v1")

    async def _exchange(self, stream: SocketStream, connection: h11.Connection) -> bool:
        request = await _next_event(stream, connection)
        if not isinstance(request, h11.Request):
            return False
        body = bytearray()
        while isinstance(data := await _next_event(stream, connection), h11.Data):
            body += data.data
        headers = {name.decode(): value.decode() for name, value in request.headers}
        sender = _Sender(stream, connection)
        refusal = check(request.target.decode(), headers, bytes(body), self.key)
        if refusal is not None:
            self.refused.append(refusal)
            await sender.whole(refusal.status, refusal.body())
        else:
            self.received.append(Received(headers, json.loads(bytes(body)), 0))
            answer: Any = self._answers.pop(0) if self._answers else Says("ok")
            await _answer(sender, answer)
        return connection.our_state is h11.DONE and connection.their_state is h11.DONE


async def _answer(sender: _Sender, answer: Any) -> None:
    if isinstance(answer, Fails):
        await sender.whole(answer.status, answer.body(), headers=answer.headers)
        return
    await sender.begin_events()
    for event in list(answer.stream())[: answer.events]:
        await sender.send(h11.Data(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()))
    match answer.then:
        case "disconnect":
            return await sender.disconnect()
        case "stall":
            await sender.wait_for_hang_up()
        case bytes(raw):
            await sender.send(h11.Data(raw))
        case _:
            pass
    await sender.send(h11.EndOfMessage())


class _Refused(Exception):
    pass


def check(target: str, headers: Mapping[str, str], body: bytes, key: str) -> Fails | None:
    """What the API says to a request; None when it takes it."""
    if target.partition("?")[0] != "/v1/messages":
        return Fails(404, "not_found_error", "Not found")
    if headers.get("x-api-key", headers.get("authorization", "").removeprefix("Bearer ")) != key:
        return Fails(401, "authentication_error", "invalid x-api-key")
    if not headers.get("anthropic-version"):
        return Fails(400, "invalid_request_error", "anthropic-version: header is required")
    try:
        _check_body(json.loads(body))
    except _Refused as refusal:
        return Fails(400, "invalid_request_error", str(refusal))
    return None


PARAMETERS = frozenset(
    "model messages max_tokens cache_control container metadata output_config service_tier stop_sequences stream "
    "system temperature thinking tool_choice tools top_k top_p".split()
)


def _must(fact: object, why: str) -> None:
    if not fact:
        raise _Refused(why)


def _check_body(body: dict[str, Any]) -> None:
    for name in body:
        _must(name in PARAMETERS, f"{name}: Extra inputs are not permitted")
    for name in ("model", "messages", "max_tokens"):
        _must(name in body, f"{name}: Field required")
    _must(isinstance(body["max_tokens"], int) and body["max_tokens"] > 0, "max_tokens: must be greater than 0")
    _must(body["messages"], "messages: at least one message is required")
    _check_thinking(body)
    for tool in body.get("tools", ()):
        _must(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", tool["name"]), "tools.0.name: String should match pattern")
        _must(tool["input_schema"].get("type") == "object", "tools.0.input_schema.type: Field required")
    _must("tool_choice" not in body or body.get("tools"), "tool_choice may only be specified while providing tools")
    for block in body.get("system", ()):
        _must(block["text"], "system: text content blocks must be non-empty")
    _must(json.dumps(body).count('"cache_control"') <= 4, "A maximum of 4 blocks with cache_control may be provided")
    _check_turns(body["messages"], thinks="thinking" in body)


def _check_thinking(body: dict[str, Any]) -> None:
    thinking = body.get("thinking")
    if thinking and thinking["type"] == "enabled":
        _must(thinking["budget_tokens"] >= 1024, "thinking.enabled.budget_tokens: should be greater or equal to 1024")
        _must(body["max_tokens"] > thinking["budget_tokens"], "`max_tokens` must be greater than `budget_tokens`")
        _must(body.get("temperature", 1) == 1, "`temperature` may only be set to 1 when thinking is enabled")


def _check_turns(messages: list[dict[str, Any]], *, thinks: bool) -> None:
    asked: list[str] = []
    ids: set[str] = set()
    for index, message in enumerate(messages):
        role = message["role"]
        _must(role in ("user", "assistant"), f"messages: Unexpected role {role!r}")
        _must(role == ("assistant" if index % 2 else "user"), "messages: roles must alternate, the first being user")
        blocks = message["content"]
        blocks = [{"type": "text", "text": blocks}] if isinstance(blocks, str) else blocks
        _must(blocks, f"messages.{index}: all messages must have non-empty content")
        for block in blocks:
            _check_block(index, role, block)
        kinds = [block["type"] for block in blocks]
        if role == "assistant":
            asked = [block["id"] for block in blocks if block["type"] == "tool_use"]
            for id in asked:  # in the whole request: https://github.com/anthropics/claude-code/issues/28515
                _must(id not in ids, f"messages.{index}: `tool_use` ids must be unique")
                ids.add(id)
            is_last_loop = index == len(messages) - 2 and asked
            _must(
                not (thinks and is_last_loop) or kinds[0] in ("thinking", "redacted_thinking"),
                f"messages.{index}.content.0.type: Expected `thinking` or `redacted_thinking`, but found `{kinds[0]}`",
            )
            _must(blocks[-1]["type"] not in ("thinking",), "The final block in an assistant message cannot be thinking")
        else:
            results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
            _must(
                set(results) == set(asked),
                f"messages.{index}: `tool_use` ids were found without `tool_result` blocks immediately after: {asked}"
                if set(asked) - set(results)
                else f"messages.{index}: unexpected `tool_use_id` found in `tool_result` blocks: {results}",
            )
            _must(kinds[: len(results)] == ["tool_result"] * len(results), "tool_result blocks must come first")
            asked = []
    _must(not asked, "the last message's `tool_use` has no `tool_result`")


def _check_block(index: int, role: str, block: dict[str, Any]) -> None:
    where = f"messages.{index}.content"
    match block["type"]:
        case "text":
            _must(block["text"].strip(), f"{where}: text content blocks must contain non-whitespace text")
        case "image":
            source = block["source"]
            _must(role == "user", f"{where}: images may only be in user messages")
            _must(source["type"] in ("base64", "url"), f"{where}.source: Input tag")
        case "tool_use":
            _must(role == "assistant", f"{where}: `tool_use` blocks can only be in `assistant` messages")
            _must(re.fullmatch(r"[a-zA-Z0-9_-]+", block["id"]), f"{where}.tool_use.id: should match pattern")
            _must(isinstance(block["input"], dict), f"{where}.tool_use.input: Input should be a valid dictionary")
        case "tool_result":
            _must(role == "user", f"{where}: `tool_result` blocks can only be in `user` messages")
        case "thinking":
            _must(role == "assistant", f"{where}: `thinking` blocks can only be in `assistant` messages")
            _must(block.get("signature") == SIGNATURE, f"{where}: Invalid `signature` in `thinking` block")
        case "redacted_thinking":
            _must(block.get("data"), f"{where}: Invalid `data` in `redacted_thinking` block")
        case kind:
            raise _Refused(f"{where}: Input tag {kind!r} found")


def _words(text: str) -> list[str]:
    return re.findall(r"\S+\s*", text)
