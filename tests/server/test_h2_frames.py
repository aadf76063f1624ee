"""HTTP/2 frames before they are parsed: which end a connection, and when others get their turn."""

import struct

import pytest
from h2.errors import ErrorCodes
from hypothesis import given, settings
from hypothesis import strategies as st

from definable.server.hypercorn.h2 import ALLOWANCE, BATCH, PREFACE_SIZE, FrameMeter, FrameRefused

PREFACE = bytes(PREFACE_SIZE)
MAX_FRAME_SIZE = 16_384

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, UNKNOWN = 0, 1, 2, 3, 4, 6, 8, 99


def frame(kind, payload=b"", *, flags=0, stream=0):
    return struct.pack("!I", len(payload))[1:] + bytes([kind, flags]) + struct.pack("!I", stream) + payload


class Meter(FrameMeter):
    def __init__(self):
        self.now = 0.0
        super().__init__(lambda: self.now, MAX_FRAME_SIZE)

    def feed(self, data):
        return list(self.pieces(data))


@pytest.fixture
def meter():
    meter = Meter()
    meter.feed(PREFACE)
    return meter


@settings(deadline=None)  # other tests may keep the machine busy
@given(st.lists(st.binary(max_size=300), max_size=80), st.integers(1, 200))
def test_all_bytes_come_out_as_they_came_in(payloads, size):
    meter = Meter()
    data = PREFACE + b"".join(frame(HEADERS, payload) for payload in payloads)
    out = b"".join(piece for at in range(0, len(data), size) for piece, _ in meter.feed(data[at : at + size]))
    assert out == data


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_others_get_their_turn_after_a_batch(meter, size):
    data = frame(PING, bytes(8)) * (2 * BATCH + 1)
    pauses = [pause for at in range(0, len(data), size) for _, pause in meter.feed(data[at : at + size])]
    assert sum(pauses) == 2


def test_a_frame_larger_than_ours_may_be_is_refused_by_its_head(meter):
    meter.feed(frame(DATA, bytes(MAX_FRAME_SIZE)))
    with pytest.raises(FrameRefused) as refused:
        meter.feed(struct.pack("!I", MAX_FRAME_SIZE + 1)[1:] + bytes(6))
    assert refused.value.code == ErrorCodes.FRAME_SIZE_ERROR


FLOODS = {
    "settings": frame(SETTINGS),
    "pings": frame(PING, bytes(8)),
    "priorities": frame(PRIORITY, bytes(5), stream=1),
    "window updates": frame(WINDOW_UPDATE, bytes(4)),
    "resets": frame(RST_STREAM, bytes(4), stream=1),
    "empty data": frame(DATA, stream=1),
    "padding": frame(DATA, bytes([9]) + bytes(9), flags=0x8, stream=1),
    "unknown": frame(UNKNOWN),
    "requests that are reset": frame(HEADERS, flags=5, stream=1) + frame(RST_STREAM, bytes(4), stream=1),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_frames_that_bring_nothing_end_the_connection(meter, kind):
    with pytest.raises(FrameRefused) as refused:
        meter.feed(FLOODS[kind] * (ALLOWANCE + 1))
    assert refused.value.code == ErrorCodes.ENHANCE_YOUR_CALM


@pytest.mark.parametrize("kind", FLOODS)
def test_a_few_of_them_now_and_then_are_welcome_for_ever(meter, kind):
    for _ in range(1000):
        meter.feed(FLOODS[kind] * 10)
        meter.now += 1


def test_what_a_browser_sends_beside_its_requests_is_welcome(meter):
    request = frame(HEADERS, bytes(40), flags=5, stream=1)
    for _ in range(10_000):
        meter.feed(request + frame(PRIORITY, bytes(5), stream=1) + frame(WINDOW_UPDATE, bytes(4), stream=1))


def test_windows_may_be_opened_as_fast_as_data_is_read(meter):
    for _ in range(10_000):
        meter.sent_data()
        meter.feed(frame(WINDOW_UPDATE, bytes(4)) + frame(WINDOW_UPDATE, bytes(4), stream=1))


def test_an_upload_is_never_refused(meter):
    for _ in range(10_000):
        meter.feed(frame(DATA, b"x" * 100, stream=1))
