"""What a docstring says of a function and of its parameters, for models to read; pure text, never raises.

`schema.py` asks for it. Google, NumPy and reST styles are understood, also mixed; the rest is description.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile

_PARAMETER_SECTIONS = r"(?:args|arguments|params|parameters|keyword args|keyword arguments|other parameters)"
_OTHER_SECTIONS = r"(?:returns?|yields?|raises|receives|warns|attributes)"

_GOOGLE_HEADER = re.compile(rf"(?:(?P<parameters>{_PARAMETER_SECTIONS})|{_OTHER_SECTIONS}):\s*", re.IGNORECASE)
_GOOGLE_ENTRY = re.compile(r"\*{0,2}(?P<name>\w+)\s*(?:\(.*?\)\s*)?:(?P<text>.*)")
_NUMPY_HEADER = re.compile(rf"(?:(?P<parameters>{_PARAMETER_SECTIONS})|\w[\w ]*)\s*", re.IGNORECASE)
_NUMPY_UNDERLINE = re.compile(r"-{3,}\s*")
_NUMPY_ENTRY = re.compile(r"(?P<names>\*{0,2}\w+(?:\s*,\s*\*{0,2}\w+)*)\s*(?::.*)?")
_REST_FIELD = re.compile(r":(?:param|parameter|arg|argument|key|keyword|type|returns?|rtype|raises?|yields?)\b[^:]*:.*")
_REST_ENTRY = re.compile(r":(?:param|parameter|arg|argument|key|keyword)\s[^:]*?\*{0,2}(?P<name>\w+)\s*:(?P<text>.*)")


@dataclass(frozen=True, slots=True)
class Docstring:
    """A docstring taken apart."""

    description: str
    """Everything before the first section or field: the summary and the body."""
    parameters: Mapping[str, str]
    """Parameter names to their descriptions, each on one line."""


@dataclass(frozen=True, slots=True)
class _Section:
    start: int
    """Index of its first line, the header."""
    entries: Sequence[tuple[str, str]]
    """Names and texts; empty when the section is not about parameters."""


def parse_docstring(text: str | None) -> Docstring:
    """Take a docstring apart.

    Args:
        text: As written, indentation and all; None for a function without one.
    """
    lines = inspect.cleandoc(text or "").splitlines()
    sections = [*_google_sections(lines), *_numpy_sections(lines), *_rest_sections(lines)]
    end = min((section.start for section in sections), default=len(lines))
    parameters: dict[str, str] = {}
    for section in sections:
        for name, description in section.entries:
            if name and description:
                parameters.setdefault(name, description)
    return Docstring("\n".join(line.rstrip() for line in lines[:end]).strip(), parameters)


def _google_sections(lines: Sequence[str]) -> Iterator[_Section]:
    """`Args:` and the like, each with an indented block below."""
    for start, line in enumerate(lines):
        header = _GOOGLE_HEADER.fullmatch(line)
        block = list(takewhile(_is_blank_or_indented, lines[start + 1 :])) if header else []
        if header and any(line.strip() for line in block):
            yield _Section(start, list(_google_entries(block)) if header["parameters"] else ())


def _google_entries(block: Sequence[str]) -> Iterator[tuple[str, str]]:
    """`name (type): text`, at the block's own indentation; deeper lines go on with the text."""
    indent = next(_indentation(line) for line in block if line.strip())
    name, texts = "", list[str]()
    for line in block:
        entry = _GOOGLE_ENTRY.fullmatch(line.strip()) if _indentation(line) <= indent else None
        if entry is None:
            texts.append(line)
            continue
        yield name, _one_line(texts)
        name, texts = entry["name"], [entry["text"]]
    yield name, _one_line(texts)


def _numpy_sections(lines: Sequence[str]) -> Iterator[_Section]:
    """A header underlined with dashes; its block goes on until the next one."""
    starts = [
        start
        for start in range(len(lines) - 1)
        if _NUMPY_HEADER.fullmatch(lines[start]) and _NUMPY_UNDERLINE.fullmatch(lines[start + 1])
    ]
    for start, end in pairwise([*starts, len(lines)]):
        header = _NUMPY_HEADER.fullmatch(lines[start])
        yield _Section(start, list(_numpy_entries(lines[start + 2 : end])) if header and header["parameters"] else ())


def _numpy_entries(block: Iterable[str]) -> Iterator[tuple[str, str]]:
    """`name : type` or `one, two : type`, not indented, each with its text indented below."""
    names, texts = "", list[str]()
    for line in block:
        if _is_blank_or_indented(line):
            texts.append(line)
            continue
        yield from _shared(names, texts)
        entry = _NUMPY_ENTRY.fullmatch(line)
        names, texts = entry["names"] if entry else "", []
    yield from _shared(names, texts)


def _shared(names: str, texts: Iterable[str]) -> Iterator[tuple[str, str]]:
    for name in names.split(","):
        yield name.strip(" *"), _one_line(texts)


def _rest_sections(lines: Sequence[str]) -> Iterator[_Section]:
    """`:param type name: text`, which goes on until a blank line or the next field."""
    for start, line in enumerate(lines):
        if not _REST_FIELD.fullmatch(line):
            continue
        entry = _REST_ENTRY.fullmatch(line)
        if entry is None:
            yield _Section(start, ())
        else:
            rest = takewhile(lambda line: line.strip() and not line.startswith(":"), lines[start + 1 :])
            yield _Section(start, [(entry["name"], _one_line([entry["text"], *rest]))])


def _is_blank_or_indented(line: str) -> bool:
    return not line.strip() or line[0].isspace()


def _indentation(line: str) -> int:
    return len(line) - len(line.lstrip())


def _one_line(texts: Iterable[str]) -> str:
    return " ".join(" ".join(texts).split())
