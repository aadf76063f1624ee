"""Responses as the messages that Discord takes."""

from __future__ import annotations

import mimetypes

import pytest

from definable.agent.interface import InterfaceResponse, Media
from definable.agent.interface.discord.outgoing import outgoing
from definable.model import Image


def test_nothing_pings_and_a_second_try_posts_nothing_anew() -> None:
    bodies = [each.body for _ in range(2) for each in outgoing(InterfaceResponse("@everyone hi"), "5")]
    nonces = {each.pop("nonce") for each in bodies}
    assert (
        bodies[0]
        == bodies[1]
        == {
            "content": "@everyone hi",
            "allowed_mentions": {"parse": []},
            "enforce_nonce": True,
            "message_reference": {"message_id": "5", "fail_if_not_exists": False},
        }
    )
    assert len(nonces) == 2 and all(len(nonce) <= 25 for nonce in nonces)


def test_files_that_are_here_are_uploaded_and_others_linked() -> None:
    response = InterfaceResponse(
        "see",
        images=(Image(data=b"png"), Image(url="data:image/gif;base64,R0lG"), Image(url="https://x/y.png")),
        files=(Media(data=b"pdf", filename="a.pdf", media_type="application/pdf"), Media(url="https://x/b.zip")),
    )
    (only,) = outgoing(response, None)
    assert [(each.filename, each.data) for each in only.uploads] == [
        ("image1.png", b"png"),
        ("image2.gif", b"GIF"),
        ("a.pdf", b"pdf"),
    ]
    assert only.body["embeds"] == [
        {"image": {"url": "https://x/y.png"}},
        {"title": "https://x/b.zip", "url": "https://x/b.zip"},
    ]
    assert "message_reference" not in only.body


@pytest.mark.parametrize(
    ("media_type", "filename"),
    [("audio/wav", "file.wav"), ("audio/ogg", "file.ogg"), ("audio/flac", "file.flac"), ("x/y", "file")],
)
def test_a_file_without_a_name_has_the_ending_by_which_discord_plays_it(
    media_type: str, filename: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mimetypes, "_db", mimetypes.MimeTypes())  # of a machine without a list of its own
    response = InterfaceResponse(
        audio=(Media(data=b"x", media_type=media_type),), images=(Image(data=b"w", media_type="image/webp"),)
    )
    (only,) = outgoing(response, None)
    assert [each.filename for each in only.uploads] == ["image1.webp", filename]


def test_more_files_than_a_message_takes_make_several() -> None:
    response = InterfaceResponse("many", files=tuple(Media(data=b"x", filename=str(index)) for index in range(23)))
    messages = list(outgoing(response, "5"))
    assert [len(each.uploads) for each in messages] == [10, 10, 3]
    assert [each.body["content"] for each in messages] == ["many", "", ""]
    assert ["message_reference" in each.body for each in messages] == [True, False, False]


def test_the_title_of_a_long_link_is_cut() -> None:
    url = "https://x/" + "y" * 500
    (only,) = outgoing(InterfaceResponse("see", files=(Media(url=url),)), None)
    assert only.body["embeds"] == [{"title": url[:256], "url": url}]
