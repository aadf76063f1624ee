"""Multipart forms against an implementation of another's: what one is sent, the other reads."""

from __future__ import annotations

from contextlib import suppress
from io import BytesIO

from hypothesis import given
from hypothesis import strategies as st
from werkzeug.datastructures import FileStorage, MultiDict
from werkzeug.test import encode_multipart

from definable.agent.trigger.content import text_of
from definable.agent.trigger.multipart import BadContent, multipart_fields

HEAD = b'content-disposition: form-data; name="a"'
NAME = st.text("abc é[]%;= ", min_size=1, max_size=8)
CONTENT = st.binary(max_size=40) | st.lists(st.sampled_from([b"\r\n", b"--", b"xx", b"a", b"\n"])).map(b"".join)


@given(st.dictionaries(NAME, st.text(st.characters(codec="utf-8"), max_size=20)), st.dictionaries(NAME, CONTENT))
def test_a_form_is_read_as_it_was_written(texts: dict[str, str], files: dict[str, bytes]) -> None:
    texts = {name: text.removeprefix("\ufeff") for name, text in texts.items()}
    form = MultiDict[str, object]([*texts.items()])
    for name, content in files.items():
        form.add(name, FileStorage(BytesIO(content), filename="f.bin"))
    boundary, body = encode_multipart(form, boundary="----boundary")
    assert multipart_fields(f"multipart/form-data; boundary={boundary}", body, text_of) == texts | files


@given(st.lists(st.sampled_from([b"--xx", b"--", b"\r\n", b"a: b", b"\r\n\r\n", HEAD, b"\xff", b" ", b"\n"])))
def test_whatever_comes_is_a_form_or_a_problem(pieces: list[bytes]) -> None:
    with suppress(BadContent):
        multipart_fields("multipart/form-data; boundary=xx", b"".join(pieces), text_of)
