"""What Slack takes as `blocks` of a message, strictly, and how it reads (https://docs.slack.dev/reference/block-kit)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

MAX_BLOCKS = 50

MAX_SIZE = 13_200
"""Characters of all blocks of a message (https://github.com/slackapi/bolt-js/issues/2509)."""

STYLES = {"bold", "italic", "strike", "underline", "code"}

TEXT_STYLES = STYLES - {"code"}

URL = re.compile(r"(?:https?://[^\s<>]+|mailto:\S+|tel:\S+)")


class InvalidBlocks(Exception):
    """Slack's `invalid_blocks`, with what is wrong where."""


def check_blocks(blocks: Any) -> None:
    """Refuse what Slack refuses."""
    if not isinstance(blocks, list) or len(blocks) > MAX_BLOCKS:
        raise InvalidBlocks(f"must be a list of at most {MAX_BLOCKS} blocks")
    if sum(len(each["text"]) for each in blocks if each.get("type") == "markdown") > 12_000:
        raise InvalidBlocks("markdown: more than 12000 characters")
    for number, block in enumerate(blocks):
        where = f"/blocks/{number}"
        check = BLOCKS.get(block.get("type"))
        if check is None:
            raise InvalidBlocks(f"unsupported type: {block.get('type')!r} [json-pointer:{where}]")
        check(block, where)


def _members(value: Any, where: str, required: set[str], optional: set[str]) -> Mapping[str, Any]:
    if not isinstance(value, dict) or not required <= value.keys() <= required | optional:
        raise InvalidBlocks(f"{value!r}: members must be {required} and may be {optional} [json-pointer:{where}]")
    return value


def _text(value: Any, limit: int, where: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= limit:
        raise InvalidBlocks(f"must be a text of 1 to {limit} characters [json-pointer:{where}]")
    return value


def _object(value: Any, limit: int, where: str, kinds: tuple[str, ...] = ("plain_text", "mrkdwn")) -> None:
    made = _members(value, where, {"type", "text"}, {"emoji", "verbatim"})
    if made["type"] not in kinds:
        raise InvalidBlocks(f"must be one of {kinds} [json-pointer:{where}/type]")
    _text(made["text"], limit, f"{where}/text")


def _url(value: Any, where: str) -> None:
    if not URL.fullmatch(_text(value, 3000, where)):
        raise InvalidBlocks(f"{value!r} is no URL [json-pointer:{where}]")


def _style(value: Any, known: set[str], where: str) -> None:
    if not isinstance(value, dict) or not value.keys() <= known or not all(each is True for each in value.values()):
        raise InvalidBlocks(f"{value!r}: of {known} [json-pointer:{where}]")


def _inline(value: Any, where: str, styles: set[str]) -> None:
    """An element of a `rich_text_section`, a quotation or a block of code."""
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "text":
        _text(_members(value, where, {"type", "text"}, {"style"})["text"], 40_000, f"{where}/text")
    elif kind == "link":
        _url(_members(value, where, {"type", "url"}, {"style", "text", "unsafe"})["url"], f"{where}/url")
        if "text" in value:
            _text(value["text"], 40_000, f"{where}/text")
    else:
        raise InvalidBlocks(f"unsupported element {kind!r} [json-pointer:{where}]")
    if "style" in value:
        _style(value["style"], styles, f"{where}/style")


def _rich_text(block: Any, where: str) -> None:
    elements = _members(block, where, {"type", "elements"}, {"block_id"})["elements"]
    if not isinstance(elements, list) or not elements:
        raise InvalidBlocks(f"must have elements [json-pointer:{where}/elements]")
    for number, element in enumerate(elements):
        at = f"{where}/elements/{number}"
        kind = element.get("type")
        if kind == "rich_text_section":
            inner = _members(element, at, {"type", "elements"}, set())["elements"]
            styles = STYLES
        elif kind in ("rich_text_quote", "rich_text_preformatted"):
            inner = _members(element, at, {"type", "elements"}, {"border"})["elements"]
            styles = STYLES if kind == "rich_text_quote" else set()
        else:
            raise InvalidBlocks(f"unsupported type {kind!r} [json-pointer:{at}]")
        if not inner:
            raise InvalidBlocks(f"must have elements [json-pointer:{at}/elements]")
        for index, each in enumerate(inner):
            _inline(each, f"{at}/elements/{index}", styles)


def _actions(block: Any, where: str) -> None:
    elements = _members(block, where, {"type", "elements"}, {"block_id"})["elements"]
    if not 0 < len(elements) <= 25:
        raise InvalidBlocks(f"must have 1 to 25 elements [json-pointer:{where}/elements]")
    ids: list[str] = []
    for number, element in enumerate(elements):
        at = f"{where}/elements/{number}"
        made = _members(element, at, {"type", "text", "action_id"}, {"value", "url", "style"})
        if made["type"] != "button":
            raise InvalidBlocks(f"unsupported element {made['type']!r} [json-pointer:{at}]")
        _object(made["text"], 75, f"{at}/text", ("plain_text",))
        ids.append(_text(made["action_id"], 255, f"{at}/action_id"))
        if "value" in made:
            _text(made["value"], 2000, f"{at}/value")
        if "url" in made:
            _url(made["url"], f"{at}/url")
    if len(set(ids)) < len(ids):
        raise InvalidBlocks(f"action_id must be unique within a block [json-pointer:{where}]")


def _image(block: Any, where: str) -> None:
    made = _members(block, where, {"type", "image_url", "alt_text"}, {"title", "block_id"})
    _url(made["image_url"], f"{where}/image_url")
    _text(made["alt_text"], 2000, f"{where}/alt_text")


def _section(block: Any, where: str) -> None:
    _object(_members(block, where, {"type", "text"}, {"block_id", "expand"})["text"], 3000, f"{where}/text")


def _markdown(block: Any, where: str) -> None:
    _text(_members(block, where, {"type", "text"}, {"block_id"})["text"], 12_000, f"{where}/text")


BLOCKS: dict[str, Callable[[Any, str], None]] = {
    "rich_text": _rich_text,
    "actions": _actions,
    "image": _image,
    "section": _section,
    "markdown": _markdown,
    "divider": lambda block, where: None,
}


def size_of(blocks: Any) -> int:
    """What Slack's limit of a message's blocks counts."""
    return len(json.dumps(blocks, ensure_ascii=False, separators=(",", ":")))


def shown(message: Mapping[str, Any]) -> str:
    """What a user reads of a message: its blocks, where it has some, a link with the address that it leads to."""
    blocks = message.get("blocks") or []
    if not any(block["type"] in ("rich_text", "section", "markdown") for block in blocks):
        text = re.sub(r"<([^|>]+)\|([^>]+)>", r"\2", str(message.get("text") or ""))
        return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    return "\n".join(_shown_block(block) for block in blocks if block["type"] != "actions")


def _shown_block(block: Mapping[str, Any]) -> str:
    if block["type"] == "rich_text":
        return "\n".join("".join(map(_shown_inline, each["elements"])) for each in block["elements"])
    return str(block.get("image_url") or (block["text"]["text"] if block["type"] == "section" else block.get("text")))


def _shown_inline(element: Mapping[str, Any]) -> str:
    text, url = element.get("text"), element.get("url")
    return text if url is None else url if text in (None, url) else f"{text}{url}"
