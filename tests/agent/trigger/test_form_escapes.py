"""The decoding of URL-encoded forms against the standard library's."""

from urllib.parse import parse_qsl, urlencode

from hypothesis import given
from hypothesis import strategies as st

from definable.agent.trigger.content import url_decoded

FORMS = st.text("%=&+;aAf04Zz \n\x00_?", max_size=40).map(str.encode)


@given(FORMS)
def test_a_form_is_decoded_as_the_standard_library_does(body: bytes) -> None:
    expected = dict(parse_qsl(body.decode(), keep_blank_values=True, encoding="latin-1"))
    assert url_decoded(body, "iso8859-1") == expected


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=10), max_size=5))
def test_every_text_comes_back(fields: dict[str, str]) -> None:
    assert url_decoded(urlencode(fields).encode(), "utf-8") == fields
