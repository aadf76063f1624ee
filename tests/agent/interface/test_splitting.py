"""Long replies in pieces: nothing is lost, no word, fence or surrogate pair is broken."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from definable.agent.interface.splitting import split_text, utf16_length

WORD = st.text(alphabet="abé😀.", min_size=1, max_size=8)
GAP = st.sampled_from([" ", "\n", "\n\n", ". ", "  "])
TEXT = st.lists(st.tuples(WORD, GAP), max_size=100).map(lambda parts: "".join(word + gap for word, gap in parts))
FENCE_LINES = ["```", "```py", "~~~", "````", "~~~~ x"]
LINES = st.lists(st.one_of(st.text(alphabet="ab 😀", max_size=12), st.sampled_from(FENCE_LINES)), max_size=60)


def is_balanced(piece: str) -> bool:
    """Whether every block of code that a piece opens is closed in it."""
    marker = ""
    for line in piece.split("\n"):
        found = re.fullmatch(r" {0,3}(`{3,}|~{3,})(.*)", line)
        if found and not marker:
            marker = found[1]
        elif found and found[1].startswith(marker) and not found[2].strip():
            marker = ""
    return not marker


def content(text: str) -> str:
    """A text without fences and white space."""
    return "".join("".join(line.split()) for line in text.split("\n") if line not in (*FENCE_LINES, "~~~~"))


@given(TEXT, st.integers(16, 60))
def test_no_word_is_broken_or_lost_and_every_piece_fits(text: str, limit: int) -> None:
    pieces = split_text(text, limit)
    assert all(utf16_length(piece) <= limit for piece in pieces)
    assert [word for piece in pieces for word in piece.split()] == text.split()


@given(st.text(), st.integers(2, 40))
def test_any_text_fits_and_loses_no_character(text: str, limit: int) -> None:
    pieces = split_text(text, limit)
    assert all(utf16_length(piece) <= limit and piece.strip() for piece in pieces)
    if "```" not in text and "~~~" not in text:
        assert "".join("".join(pieces).split()) == "".join(text.split())


@given(st.lists(st.text(alphabet="ab 😀`~\n", max_size=12), max_size=60).map("\n".join), st.integers(2, 80))
def test_whatever_looks_like_code_fits(text: str, limit: int) -> None:
    assert all(utf16_length(piece) <= limit for piece in split_text(text, limit))


@given(LINES.map("\n".join), st.integers(40, 80))
def test_a_block_of_code_is_closed_and_opened_again(text: str, limit: int) -> None:
    pieces = split_text(text, limit)
    assert all(is_balanced(piece) for piece in pieces[:-1])
    assert content("\n".join(pieces)) == content(text)


@pytest.mark.parametrize(
    ("text", "limit", "pieces"),
    [
        ("", 10, []),
        (" \n ", 10, []),
        ("short", 10, ["short"]),
        ("one two three", 7, ["one two", "three"]),
        ("one two\n\nthree", 10, ["one two", "three"]),
        ("First. Second one", 12, ["First.", "Second one"]),
        ("abcdefghij", 4, ["abcd", "efgh", "ij"]),
        ("😀😀😀", 5, ["😀😀", "😀"]),
        ("\ud83d\ude00\ud83d\ude00", 3, ["\U0001f600", "\U0001f600"]),
        ("\ud83d a\ude00b\ud83d", 100, ["\ufffd a\ufffdb\ufffd"]),
        ("```py\none()\ntwo()\n```\nend", 20, ["```py\none()\n```", "```py\ntwo()\n```\nend"]),
    ],
)
def test_cuts_where_a_reader_would(text: str, limit: int, pieces: list[str]) -> None:
    assert split_text(text, limit) == pieces


def test_indentation_after_a_cut_stays() -> None:
    assert split_text("- a\n  - b\n  - c", 9) == ["- a\n  - b", "  - c"]


def test_a_long_text_is_cut_in_no_time() -> None:
    assert len(split_text("word " * 200_000, 4096)) == 245
