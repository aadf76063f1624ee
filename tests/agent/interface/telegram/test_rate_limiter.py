"""How fast a bot sends: pure."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from definable.agent.interface.telegram.client import RateLimiter


def send_times(chats: list[str]) -> list[tuple[str, float]]:
    """When messages go out that are all ready at once, those of one chat one after the other."""
    limiter, free = RateLimiter(), dict.fromkeys(chats, 0.0)
    waiting, sent = list(chats), list[tuple[str, float]]()
    while waiting:
        chat = min(waiting, key=lambda chat: free[chat])
        now = free[chat]
        if (seconds := limiter.wait(chat, now)) > 1e-9:
            free[chat] = now + seconds
            continue
        waiting.remove(chat)
        free[chat] = now + limiter.take(chat, now)
        sent.append((chat, free[chat]))
    return sent


@given(st.lists(st.sampled_from(["1", "2", "3", "-4", *map(str, range(10, 80))]), max_size=200))
def test_no_chat_no_group_and_no_second_gets_more_than_telegram_allows(chats: list[str]) -> None:
    sent = send_times(chats)
    by_chat: dict[str, list[float]] = defaultdict(list)
    for chat, at in sent:
        by_chat[chat].append(at)
    for times in by_chat.values():
        assert all(later - former >= 1 - 1e-6 for former, later in pairwise(times))
    assert all(later - former >= 60 for former, later in zip(by_chat["-4"], by_chat["-4"][20:], strict=False))
    overall = sorted(at for _, at in sent)
    assert all(later - former >= 1 for former, later in zip(overall, overall[30:], strict=False))


def test_a_group_has_twenty_a_minute_a_chat_one_a_second_and_the_bot_thirty() -> None:
    group = [at for _, at in send_times(["-1"] * 100)]
    assert all(later - sooner > 60 for sooner, later in zip(group, group[20:], strict=False))
    assert [at for _, at in send_times(["1"] * 10)] == pytest.approx([float(number) for number in range(10)])
    everybody = [at for _, at in send_times([f"{number}" for number in range(200)])]
    assert all(later - sooner > 1 for sooner, later in zip(everybody, everybody[30:], strict=False))


def test_a_message_that_was_held_up_does_not_have_the_next_at_its_heels() -> None:
    limiter = RateLimiter()
    for number in range(100):
        limiter.take(f"{number}", 0.0)
    held_up = limiter.take("7000", 0.0)
    assert held_up > 2
    assert limiter.wait("7000", held_up) == 1.0


def test_chats_that_have_been_silent_are_forgotten_and_the_others_kept_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("definable.agent.interface.telegram.client.MAX_CHATS", 3)
    limiter = RateLimiter()
    for number in range(4):
        limiter.take(f"-{number}", 0.0)
    limiter.take("busy", 9.5)
    limiter.take("one more", 10.0)
    assert set(limiter._chats) == {"busy", "one more"}  # pyright: ignore[reportPrivateUsage]
    assert set(limiter._groups) == set()  # pyright: ignore[reportPrivateUsage]
    assert limiter.wait("busy", 10.0) == pytest.approx(0.5)
