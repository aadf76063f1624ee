"""Several providers, and how each of them is consulted."""

import threading
from collections.abc import Awaitable

import pytest

from definable.agent.auth import (
    AllowlistAuth,
    APIKeyAuth,
    AuthContext,
    AuthProvider,
    AuthRequest,
    CompositeAuth,
    GitHubSignature,
    JWTAuth,
)
from definable.agent.auth.base import MAX_IMMEDIATE_BODY, authenticate, needs_body
from definable.errors import ConfigurationError

pytestmark = pytest.mark.anyio


class Answering:
    """A sync provider that notes in which thread it was asked."""

    def __init__(self, answer: object, *, immediate: bool = False) -> None:
        self.answer = answer
        self.immediate = immediate
        self.threads: list[int] = []

    def authenticate(self, request: AuthRequest) -> AuthContext | None:
        self.threads.append(threading.get_ident())
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer  # pyright: ignore[reportReturnType]


class AnsweringAsync(Answering):
    async def authenticate(self, request: AuthRequest) -> AuthContext | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().authenticate(request)


class AnsweringAwaitable(Answering):
    def authenticate(self, request: AuthRequest) -> Awaitable[AuthContext | None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        async def later() -> AuthContext | None:
            return super(AnsweringAwaitable, self).authenticate(request)

        return later()


ALICE, BOB = AuthContext("alice"), AuthContext("bob")

every_kind = pytest.mark.parametrize("kind", [Answering, AnsweringAsync, AnsweringAwaitable])


@every_kind
async def test_the_first_success_wins_and_later_providers_are_not_asked(kind: type[Answering]) -> None:
    first, second, third = kind(None), kind(ALICE), kind(BOB)
    assert await CompositeAuth(first, second, third).authenticate(AuthRequest()) is ALICE
    assert [len(each.threads) for each in (first, second, third)] == [1, 1, 0]


@every_kind
async def test_when_none_knows_the_caller_it_is_refused(kind: type[Answering]) -> None:
    assert await CompositeAuth(kind(None), kind(None)).authenticate(AuthRequest()) is None


@every_kind
async def test_a_provider_that_raises_denies_and_no_later_one_is_asked(kind: type[Answering]) -> None:
    broken, open_door = kind(OSError("the directory is down")), kind(ALICE)
    with pytest.raises(OSError, match="the directory is down"):
        await CompositeAuth(broken, open_door).authenticate(AuthRequest())
    assert open_door.threads == []


async def test_a_broken_provider_does_not_lock_out_those_before_it() -> None:
    assert await CompositeAuth(Answering(ALICE), Answering(OSError())).authenticate(AuthRequest()) is ALICE


async def test_composites_nest() -> None:
    inner = CompositeAuth(Answering(None), AnsweringAsync(BOB))
    assert await CompositeAuth(Answering(None), inner).authenticate(AuthRequest()) is BOB


@every_kind
@pytest.mark.parametrize("answer", [True, False, "alice", {"user_id": "alice"}, 0])
async def test_an_answer_that_is_no_context_is_not_a_success(kind: type[Answering], answer: object) -> None:
    with pytest.raises(TypeError, match="an AuthContext, or None"):
        await authenticate(kind(answer), AuthRequest())


async def test_a_sync_provider_may_block_so_it_is_asked_in_a_worker_thread() -> None:
    provider = Answering(ALICE)
    assert await authenticate(provider, AuthRequest()) is ALICE
    assert provider.threads != [threading.get_ident()]


async def test_an_immediate_provider_is_asked_at_once_unless_the_body_is_large() -> None:
    provider = Answering(ALICE, immediate=True)
    for size in (MAX_IMMEDIATE_BODY, MAX_IMMEDIATE_BODY + 1):
        assert await authenticate(provider, AuthRequest(body=bytes(size))) is ALICE
    assert [thread == threading.get_ident() for thread in provider.threads] == [True, False]


@pytest.mark.parametrize("kind", [AnsweringAsync, AnsweringAwaitable])
async def test_an_immediate_provider_may_be_async(kind: type[Answering]) -> None:
    assert await authenticate(kind(ALICE, immediate=True), AuthRequest()) is ALICE


def test_the_body_is_needed_when_one_of_them_needs_it() -> None:
    keys, signature = APIKeyAuth("a key"), GitHubSignature("a secret")
    assert not needs_body(keys)
    assert not needs_body(CompositeAuth(keys, AllowlistAuth({"7"})))
    assert needs_body(CompositeAuth(keys, signature))
    assert needs_body(CompositeAuth(CompositeAuth(signature), keys))


def test_there_is_at_least_one() -> None:
    with pytest.raises(ConfigurationError, match="at least one"):
        CompositeAuth()


@pytest.mark.parametrize("provider", [None, "key", object(), APIKeyAuth, lambda request: ALICE])
def test_what_is_no_provider_is_refused(provider: AuthProvider) -> None:
    with pytest.raises(ConfigurationError, match=r"authenticate\(\)"):
        CompositeAuth(provider)


def test_no_secret_is_shown() -> None:
    shown = repr(CompositeAuth(APIKeyAuth("the-key"), JWTAuth("the-secret" * 4), GitHubSignature("the-secret")))
    assert "the-key" not in shown and "the-secret" not in shown
