"""What a model wrote is what the user reads: every character that is not markup, in order, at every step of streaming.

`MARKDOWN_PREFIXES=all` streams every sample at every prefix; by default at a few.
"""

from __future__ import annotations

import html
import os
import re
from collections.abc import Callable

import pytest
import wcwidth
from hypothesis import given
from hypothesis import strategies as st
from loopback import slack_blocks
from loopback.discord_markdown import read
from loopback.telegram_rules import check_send
from markdown_samples import samples

from definable.agent.interface.discord.markdown import discord_texts
from definable.agent.interface.slack.blocks import fallback, rich_text
from definable.agent.interface.splitting import split_text, utf16_length
from definable.agent.interface.telegram.formatting import formatted

SAMPLES = dict(samples())

PREFIXES = os.environ.get("MARKDOWN_PREFIXES", "3")

MARKUP = frozenset("*_~`#|-+=[]()!\\:\x00\ufffd")
"""What may be markup anywhere; what else may be is in `MARKUP_PATTERNS`."""

MARKUP_PATTERNS = (
    (r"(?m)^([ \t>]|[-*+][ \t]|\d+[.)](?:[ \t]|$))*((`{3,}|~{3,})[^\s`]*)?", ""),  # quotations, items, fences
    (r"\[[xX]\]", ""),  # tasks
    (r"</?(b|i|u|code)>|<br ?/?>", ""),
    (r"<((https?://|[a-z]+@)[^\s<>]*)>", r"\1"),
    (r'(\]\(\S+) "([^"]*)"\)', r"\1\2"),  # a link's title
)


def required(markdown: str) -> str:
    """What of a source is not markup."""
    for pattern, kept in MARKUP_PATTERNS:
        markdown = re.sub(pattern, kept, markdown)
    return "".join(each for each in html.unescape(markdown) if each not in MARKUP and not each.isspace())


def first_lost(wanted: str, read: str) -> str | None:
    """The rest of what is wanted, from the first character that is not there, in order; None when all is."""
    at = 0
    for index, character in enumerate(wanted):
        at = read.find(character, at) + 1
        if at == 0:
            return wanted[index:]
    return None


def on_telegram(markdown: str, limit: int) -> str:
    """What a user can read or follow of a reply; each message is one that Telegram takes."""
    return html.unescape("".join(telegram_message(piece, limit) for piece in split_text(markdown, limit)))


def telegram_message(piece: str, limit: int) -> str:
    look = formatted(piece, limit)
    check_send("editMessageText", {"chat_id": 1, "message_id": 1, **look.parameters})
    assert utf16_length(look.text) <= limit
    units, read, at = look.text.encode("utf-16-le"), "", 0
    for entity in sorted((each for each in look.entities if each.url), key=lambda each: each.end):
        read += units[at * 2 : entity.end * 2].decode("utf-16-le") + (entity.url or "")
        at = entity.end
    return read + units[at * 2 :].decode("utf-16-le")


def on_discord(markdown: str, limit: int) -> str:
    """What a user can read of a reply, or follow; nothing in it means more than the model meant."""
    seen = ""
    for text in discord_texts(markdown, limit):
        assert utf16_length(text) <= limit
        shown = read(text)
        understood = {"mention", "emoji", "time", "command", "place", "contact", "subtext"} & shown.kinds.keys()
        assert not understood, (understood, text)
        assert "underline" not in shown.kinds or re.search("<(u|ins)>", markdown), text
        assert "spoiler" not in shown.kinds or re.search(r"\|\|\S.*\|\|", markdown), text
        seen += shown.text
    assert seen.count("\\") <= markdown.count("\\")
    return html.unescape(seen)


def on_slack(markdown: str, limit: int) -> str:
    """What a user can read of a reply, or follow; each message is one that Slack takes."""
    return html.unescape("".join(slack_message(piece) for piece in split_text(markdown, limit)))


def slack_message(piece: str) -> str:
    blocks = [rich_text(piece)]
    slack_blocks.check_blocks(blocks)
    assert slack_blocks.size_of(blocks) <= slack_blocks.MAX_SIZE
    assert len(fallback(piece).encode()) <= 4000
    return slack_blocks.shown({"blocks": blocks})


def prefixes(text: str) -> list[str]:
    count = len(text) if PREFIXES == "all" else int(PREFIXES)
    return [text[: len(text) * step // count] for step in range(1, count + 1)]


def test_there_are_at_least_three_hundred_samples() -> None:
    assert len(set(SAMPLES.values())) >= 300


@pytest.mark.parametrize(
    ("shown", "limit"),
    [(on_telegram, 4096), (on_telegram, 150), (on_discord, 2000), (on_discord, 150), (on_slack, 4000), (on_slack, 150)],
)
@pytest.mark.parametrize("script", sorted({name.partition("-")[0] for name in SAMPLES}))
def test_a_reply_is_shown_whole_at_every_step(script: str, shown: Callable[[str, int], str], limit: int) -> None:
    lost = [
        (name, prefix[-60:], rest[:60])
        for name, text in SAMPLES.items()
        if name.startswith(f"{script}-")
        for prefix in prefixes(text)
        if (rest := first_lost(required(prefix), shown(prefix, limit))) is not None
    ]
    assert lost == []


@pytest.mark.parametrize("script", sorted({name.partition("-")[0] for name in SAMPLES}))
def test_pieces_have_all_of_a_reply_and_no_character_is_cut(script: str) -> None:
    for text in (text for name, text in SAMPLES.items() if name.startswith(f"{script}-")):
        for limit in (2000, 120, 40):
            pieces = split_text(text, limit)
            assert all(utf16_length(piece) <= limit for piece in pieces)
            assert first_lost(required(text), html.unescape("".join(pieces))) is None
            clusters = {cluster for cluster in wcwidth.iter_graphemes(text) if not cluster.isspace()}
            cut = {cluster for piece in pieces for cluster in wcwidth.iter_graphemes(piece)} - clusters
            assert {cluster for cluster in cut if not cluster.isspace() and not cluster.isascii()} == set()


LITERAL = (
    "<repo-url> $HOME a||b && x_1 -> C++ 50% 日本語 مرحبا नमस्ते 👨‍👩‍👧 R&D {x} 1<2 it's @ann ~5 __init__ 2*3*4 [1] (a) "
    '"q" #tag C:\\dir a|b <br/x> </div> != === e\u0301 🇳🇴 ^ ; 1.5 \\d+ $5 a_b_c *.py word'
).split()
PLAIN = ("word", "слово", "字", "كلمة", "two words", "x1", "😀")

literal = st.sampled_from(LITERAL)
text = st.lists(literal, min_size=1, max_size=6).map(lambda words: (" ".join(["word", *words]), "".join(words)))
plain = st.sampled_from(PLAIN)
span = st.one_of(
    text,
    *[plain.map(lambda word, mark=mark: (f"{mark}{word}{mark}", word)) for mark in ("**", "*", "~~", "***", "<b>")],
    literal.filter(lambda word: "`" not in word).map(lambda word: (f"`{word}`", word)),
    plain.map(lambda word: (f"[{word}](https://e.com/{word[0]})", f"{word}https://e.com/{word[0]}")),
    plain.map(lambda word: (f"![{word}](https://e.com/i)", f"{word}https://e.com/i")),
)
line = st.lists(span, min_size=1, max_size=4).map(
    lambda spans: (" ".join(each for each, _ in spans), "".join(each for _, each in spans))
)


def prefixed(prefix: str) -> st.SearchStrategy[tuple[str, str]]:
    return line.map(lambda one: (f"{prefix}{one[0]}", one[1]))


code = st.tuples(st.lists(literal, min_size=1, max_size=8), st.sampled_from(["", "    ", "> ", ">   "])).map(
    lambda made: ("\n".join(f"{made[1]}{each}" for each in ("```sh", *made[0], "```")), "".join(made[0]))
)
table = st.lists(line, min_size=1, max_size=4).map(
    lambda rows: (
        "| a | b |\n|---|:-:|\n" + "\n".join(f"| 1 | {row} | 3 |" for row, _ in rows),
        "ab" + "".join(f"1{row}3" for _, row in rows),
    )
)
block = st.one_of(
    *[prefixed(each) for each in ("", "# ", "- ", "> ", "3. ", "- [ ] ", "  - ", "> - ", "1. > ")], code, table
)
document = st.lists(block, min_size=1, max_size=8).map(
    lambda blocks: ("\n\n".join(each for each, _ in blocks), "".join(each for _, each in blocks))
)


PLATFORMS = pytest.mark.parametrize("shown", [on_telegram, on_discord, on_slack])


@PLATFORMS
@given(document, st.sampled_from([2000, 600, 120]))
def test_generated_markdown_is_read_whole(shown: Callable[[str, int], str], made: tuple[str, str], limit: int) -> None:
    markdown, wanted = made
    assert first_lost("".join(wanted.split()), shown(markdown, limit)) is None


@PLATFORMS
@given(document, st.integers(1, 1_000_000), st.sampled_from([2000, 120]))
def test_generated_markdown_is_valid_at_any_prefix(
    shown: Callable[[str, int], str], made: tuple[str, str], at: int, limit: int
) -> None:
    prefix = made[0][: at % len(made[0]) + 1]
    assert first_lost(required(prefix), shown(prefix, limit)) is None


@PLATFORMS
@given(st.text(alphabet="ab <>*_`~[]()!|-+.#\\$&\n\t1>\u0301😀:@/", max_size=300), st.sampled_from([2000, 40]))
def test_whatever_looks_like_markdown_is_valid(shown: Callable[[str, int], str], markdown: str, limit: int) -> None:
    shown(markdown, limit)
