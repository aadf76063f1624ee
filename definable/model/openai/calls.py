"""Tool calls from the pieces in which a stream brings them. Pure; `response.py` hands the pieces in.

OpenAI tells parallel calls apart by `index`, and the first piece of each has its id and name
(https://platform.openai.com/docs/guides/function-calling#streaming). Compatible servers send whole calls all at index 0
or without one, a new id or the name again with every piece, `{}` before the arguments, or all of them once more at the
end. One fact decides: arguments are one JSON object, so that whatever follows a whole one belongs to another call, or
repeats it. In doubt two pieces are joined: a call that is no JSON is told to the model, a call that was split would be
executed with arguments that the model never gave.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

from pydantic import BaseModel

from definable.model.message import ToolCall


class FunctionPiece(BaseModel):
    """What a piece adds to a call's function."""

    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class CallPiece(BaseModel):
    """A piece of a call as it stands in a chunk, or a whole call in a message."""

    index: int | None = None
    id: str | None = None
    function: FunctionPiece = FunctionPiece()
    extra_content: dict[str, Any] | None = None
    """Google's: the signature of the thought that led to the call."""


class CallAssembler:
    """The calls of one choice."""

    def __init__(self) -> None:
        self._calls: list[_PartialCall] = []

    def __bool__(self) -> bool:
        return bool(self._calls)

    def add_whole(self, pieces: Sequence[CallPiece]) -> None:
        """Take the calls of a message: each stands for itself, whatever its id and index."""
        for piece in pieces:
            self._begin(piece).add(piece)

    def add_pieces(self, pieces: Sequence[CallPiece]) -> bool:
        """Take the pieces of one chunk; return whether they brought anything."""
        brought = False
        begun = len(self._calls)
        for piece in pieces:
            known = self._calls[:begun] if piece.index is None else self._calls  # without an index: by place
            call = next((call for call in reversed(known) if piece.index in (None, call.index)), None)
            if call is None or call.ends_before(piece):
                call = self._begin(piece, after=call)
            brought = call.add(piece) or brought
        return brought

    def build(self, *, cut_off: bool) -> tuple[ToolCall, ...]:
        """The calls as far as they came.

        Args:
            cut_off: The answer ended before the model was done: a call without whole arguments is left out then.
        """
        return tuple([call.build() for call in self._calls if (call.is_whole or not cut_off) and not call.is_an_echo])

    def _begin(self, piece: CallPiece, after: _PartialCall | None = None) -> _PartialCall:
        call = _PartialCall(piece.index, after)
        self._calls.append(call)
        return call


class _PartialCall:
    """A tool call on its way in.

    Args:
        index: Of its first piece.
        after: The call of the same index before it.
    """

    def __init__(self, index: int | None, after: _PartialCall | None) -> None:
        self.index = index
        self._after = after
        self._id = ""
        self._name = ""
        self._arguments: list[str] = []
        self._extra: dict[str, Any] | None = None

    @property
    def is_whole(self) -> bool:
        """Whether it has all its arguments for certain: an empty object may stand for those that come."""
        return bool(self._name) and bool(self._object())

    @property
    def is_an_echo(self) -> bool:
        """Whether it is nothing but the name of the call before, under a new id."""
        return self._after is not None and self._after._name == self._name and not self._arguments

    def ends_before(self, piece: CallPiece) -> bool:
        """Whether a piece of the same index begins another call; a piece without a name continues it, whatever its id.

        With the id of this call it belongs to it: the arguments once more, or those that an empty object stood for.
        """
        name, arguments = piece.function.name, piece.function.arguments
        if not name or (piece.id and piece.id == self._id):
            return False
        has_new_id, held = bool(piece.id and self._id), self._object()
        if held is None:
            return bool(self._name) and name != self._name and (has_new_id or bool(self._arguments))
        if isinstance(arguments, str):
            arguments = arguments.strip()
        return has_new_id or name != self._name or (bool(arguments) and held != _json_object(arguments))

    def add(self, piece: CallPiece) -> bool:
        """Take a piece; return whether it brought anything."""
        name, arguments = piece.function.name or "", piece.function.arguments
        self._id = self._id or piece.id or ""
        self._extra = piece.extra_content or self._extra
        if name != self._name:  # many send it again with every piece
            self._name += name
        if isinstance(arguments, dict):
            arguments = json.dumps(arguments)
        if not arguments:
            return bool(name)
        held = self._object() if arguments.lstrip().startswith("{") else None
        if held == {}:
            self._arguments.clear()
        elif held is not None and held == _json_object(arguments):
            return True
        self._arguments.append(arguments)
        return True

    def build(self) -> ToolCall:
        text = _unquoted(well_formed("".join(self._arguments)))
        extra = {"extra_content": self._extra} if self._extra else None
        return ToolCall(self._name, text or "{}", self._id or None, extra)

    def _object(self) -> dict[str, Any] | None:
        """The arguments, once they are a whole object."""
        if not self._arguments or not self._arguments[-1].rstrip().endswith("}"):
            return None  # of most pieces of long arguments: nothing to put together
        return _json_object("".join(self._arguments))


def _json_object(text: str | dict[str, Any] | None) -> dict[str, Any] | None:
    if not isinstance(text, str):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def _unquoted(text: str) -> str:
    """The object's text where a server put it into a JSON string once more."""
    if not text.startswith('"'):
        return text
    try:
        inner = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return inner if isinstance(inner, str) and _json_object(inner) is not None else text


def well_formed(text: str) -> str:
    """Surrogate pairs joined, and halves without their other half replaced."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
