"""What becomes of Markdown on Telegram, construct by construct."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopback.telegram_rules import check_send

from definable.agent.interface.rendering import pages
from definable.agent.interface.telegram.formatting import PLAIN, formatted


def shown(markdown: str, limit: int = 4096) -> tuple[str, list[tuple[str, str]]]:
    """The text, and each entity with its part of the text and what it says beside that."""
    look = formatted(markdown, limit)
    check_send("sendMessage", {"chat_id": 1, **look.parameters})
    units = look.text.encode("utf-16-le")
    parts = [units[each.offset * 2 : each.end * 2].decode("utf-16-le") for each in look.entities]
    return look.text, [
        (" ".join(filter(None, (each.type, each.url, each.language))), part)
        for each, part in zip(look.entities, parts, strict=True)
    ]


@pytest.mark.parametrize(
    "text",
    [
        "git clone <repo-url> && cd <dir>",
        "<div>\nHello\n</div>\n\nAfter.",
        "a <!-- hidden --> b <kbd>x</kbd>",
        "if a || b || c then",
        "Set $HOME and $PATH, then pay $5.",
        "It is $a_1 * b_1 * c$, \\(x^2\\) and\n\n\\[\n- y\n+ z = \\\\ 1\n\\]",
        "call __init__ and 2*3*4, ~5 km",
        "see [docs][1]\n\n[1]: https://example.com",
        "a [x](javascript:alert(1)) b",
    ],
)
def test_what_is_no_markup_stays(text: str) -> None:
    assert shown(text) == (text, [])


@pytest.mark.parametrize(
    ("markdown", "text", "entities"),
    [
        ("# Title\ntext", "Title\ntext", [("bold", "Title")]),
        ("a **b *c***", "a b c", [("bold", "b c"), ("italic", "c")]),
        ("**see `x` now**", "see x now", [("bold", "see "), ("code", "x"), ("bold", " now")]),
        ("\U0001f680 **\U0001f389 b**", "\U0001f680 \U0001f389 b", [("bold", "\U0001f389 b")]),
        ("~~a~~ <u>b</u> ||c||", "a b c", [("strikethrough", "a"), ("underline", "b"), ("spoiler", "c")]),
        ("a<br>b  \nc", "a\nb\nc", []),
        ("- [ ] a\n- [x] b\n- c", "☐ a\n☑ b\n• c", []),
        ("1. a\n1. b\n   - c\n\n     d\n7. e", "1. a\n2. b\n   • c\n\n     d\n7. e", []),
        ("[a](https://e.com/x_y)", "a", [("text_link https://e.com/x_y", "a")]),
        ("![a](https://e.com/i.png)", "a", [("text_link https://e.com/i.png", "a")]),
        ("[a](./b.md) [c](http://localhost:1)", "a (./b.md) c (http://localhost:1)", []),
        (
            "[![a](https://e.com/i)](https://e.com)",
            "a (https://e.com/i)",
            [("text_link https://e.com", "a (https://e.com/i)")],
        ),
        ("> a\n>> b\n\nc", "a\nb\n\nc", [("blockquote", "a\nb")]),
        ("1. a\n    ```py\n    x\n      y\n    ```", "1. a\n   x\n  y", [("pre py", "x\n  y")]),
        ("1. a\n   ```\nx <y>\n   ```\n2. b", "1. a\n   x <y>\n2. b", [("pre", "x <y>")]),
        ('```py title="a"\nx\n```', 'py title="a"\nx', [("pre py", "x")]),
        ("|a|b|\n|-|-|\n|日本|`c`|", "a    | b\n-----+--\n日本 | c", None),
        ("|a|b|\n|-|-|\n|1|2|3|\nend", "a | b |\n--+---+--\n1 | 2 | 3\nend", None),
        ("|a|b|\n|-|-|\n|[c](https://e.com)|d|", "a | b\n• c | d", None),
        ("这是**“重点”**内容", "这是“重点”内容", [("bold", "“重点”")]),
    ],
)
def test_markup_is_shown(markdown: str, text: str, entities: list[tuple[str, str]] | None) -> None:
    read, found = shown(markdown)
    assert read == text
    if entities is not None:
        assert found == entities


@pytest.mark.parametrize("text", ["project/\n    src/\n        main.py", "Run:\n\n    if x:\n        y()", "a\n  b"])
def test_what_is_indented_without_a_fence_stays_indented(text: str) -> None:
    assert formatted(text, 4096).text == text


def test_a_table_with_a_long_cell_is_a_list_of_its_rows() -> None:
    rows = "".join(f"| {number} | {'long ' * 40} | `x` |\n" for number in range(15))
    text, entities = shown(f"| n | text | code |\n|---|---|---|\n{rows}\n**end**")
    assert text.startswith("n | text | code\n• 0 | long long") and text.endswith("end")
    assert {kind for kind, _ in entities} == {"bold", "code"}


def test_a_table_in_columns_that_would_be_too_long_is_a_list_too() -> None:
    markdown = "|a|b|\n|-|-|\n" + "".join("|1|2|\n" for _ in range(20)) + "|" + "x" * 30 + "|y|"
    assert formatted(markdown, len(markdown) + 60).text.startswith("a | b\n• 1 | 2")


def test_more_entities_than_telegram_keeps_cost_no_link() -> None:
    _, entities = shown("**b** " * 120 + "[a](https://e.com)" + " `c`" * 50)
    assert len(entities) == 100
    assert ("text_link https://e.com", "a") in entities


@pytest.mark.parametrize(("markdown", "limit"), [("**bold**", 3), ("```py", 100), ("[a](https://e.com) " * 101, 4096)])
def test_what_formatting_would_lengthen_empty_or_rob_of_a_link_stays_as_it_is(markdown: str, limit: int) -> None:
    assert formatted(markdown, limit).parameters == {"text": markdown}


@given(st.from_regex(PLAIN, fullmatch=True))
def test_what_is_sent_without_being_read_is_what_reading_makes_of_it(text: str) -> None:
    pages_of_it = [*pages(text)]
    assert all((page.text, page.entities) == (text, []) for page in pages_of_it) and pages_of_it
