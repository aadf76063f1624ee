"""Long replies in pieces: nothing is lost, no word, fence or surrogate pair is broken."""

from __future__ import annotations

import re

import pytest
import wcwidth
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


NESTED = "- Setup\n  1. Install\n\n      ```bash\n      one\n      two\n      three\n      ```\n\n  2. Run"
TABLE = "| Name | n |\n|---|---|\n| one | 1 |\n| two | 2 |\n| three | 3 |\n\nEnd."


@pytest.mark.parametrize(
    ("text", "limit", "pieces"),
    [
        (
            NESTED,
            60,
            [
                "- Setup\n  1. Install\n\n      ```bash\n      one\n      ```",
                "      ```bash\n      two\n      three\n      ```\n\n  2. Run",
            ],
        ),
        ("- ```\n  one\n  two\n  three\n  ```", 24, ["- ```\n  one\n  two\n  ```", "  ```\n  three\n  ```"]),
        ("> ```\n> one\n> two\n> ```\nend", 22, ["> ```\n> one\n> ```", "> ```\n> two\n> ```\nend"]),
        ("> ```\n> one\n\nno code any more", 22, ["> ```\n> one", "no code any more"]),
        (
            TABLE,
            48,
            [
                "| Name | n |\n|---|---|\n| one | 1 |\n| two | 2 |",
                "| Name | n |\n|---|---|\n| three | 3 |\n\nEnd.",
            ],
        ),
        (f"Before.\n{TABLE}", 34, ["Before.", "| Name | n |\n|---|---|\n| one | 1 |"]),
        ("\U0001f468\u200d\U0001f469\u200d\U0001f467" * 3, 10, ["\U0001f468\u200d\U0001f469\u200d\U0001f467"] * 3),
        ("\U0001f1f3\U0001f1f4" * 3, 7, ["\U0001f1f3\U0001f1f4"] * 3),
        ("e\u0301" * 5, 5, ["e\u0301" * 2, "e\u0301" * 2, "e\u0301"]),
        ("\u0915\u094d\u0937\u093f" * 2, 7, ["\u0915\u094d\u0937\u093f"] * 2),
        ("\u1112\u1161\u11ab" * 3, 5, ["\u1112\u1161\u11ab"] * 3),
        ("a" + "\u0301" * 9, 4, ["a\u0301\u0301\u0301", "\u0301" * 4, "\u0301" * 2]),
    ],
)
def test_code_tables_and_characters_stay_whole(text: str, limit: int, pieces: list[str]) -> None:
    assert split_text(text, limit)[: len(pieces)] == pieces


GRAPHEMES = [
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\U0001f1f3\U0001f1f4",
    "e\u0301",
    "\u0e19\u0e49\u0e33",
    "\U0001f44d\U0001f3fd",
    "a",
    "\u0915\u094d\u0937\u093f",
    "\u1112\u1161\u11ab",
    "\ud55c",
    "\u2764\ufe0f",
    "1\ufe0f\u20e3",
    "\u0628\u0651\u064e",
    "\u65e5",
]


@given(st.lists(st.sampled_from(GRAPHEMES), max_size=60).map("".join), st.integers(20, 40))
def test_no_character_is_cut_as_unicode_sees_it(text: str, limit: int) -> None:
    pieces = split_text(text, limit)
    assert "".join(pieces) == text
    assert [each for piece in pieces for each in wcwidth.iter_graphemes(piece)] == list(wcwidth.iter_graphemes(text))
