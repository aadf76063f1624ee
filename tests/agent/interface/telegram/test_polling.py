"""Long polling against the loopback Bot API, in virtual time: what is taken, acknowledged, repeated and survived."""

from __future__ import annotations

import gc
import logging
from collections.abc import Mapping
from typing import Any

import anyio
import pytest
from loopback.telegram_bot import bot_for
from loopback.telegram_server import Fault, Page, Refused, Slow, TelegramServer

from definable.agent import Agent
from definable.agent.bus import MemoryBus
from definable.agent.interface.telegram.update import ALLOWED_UPDATES
from definable.agent.runtime.supervisor import InterfaceState
from definable.errors import StorageError
from definable.model import OfflineModel

pytestmark = pytest.mark.anyio

CONFLICT = Refused(409, "Conflict: terminated by other getUpdates request")

UNDECODABLE = Page(b"no gzip", 200, encoding="gzip")


def polls(server: TelegramServer) -> list[dict[str, Any]]:
    return [call.parameters for call in server.calls if call.method == "getUpdates"]


def agent(latency: float = 0.0) -> Agent:
    return Agent(OfflineModel(latency=latency))


async def test_a_message_is_answered_and_acknowledged() -> None:
    async with TelegramServer().running() as server:
        server.write("hello", chat=5)
        async with agent().running(bot_for(server), enable_server=False) as runtime:
            await server.until(lambda server: server.sent(5))
        assert (server.sent(5), server.updates, server.refusals) == (["hello"], [], [])
        assert runtime.report is not None
        assert runtime.report.sources["telegram"].completed == 1


async def test_an_idle_poll_is_held_open_and_asks_for_what_is_answered_alone() -> None:
    async with TelegramServer().running() as server, agent().running(bot_for(server), enable_server=False):
        await anyio.sleep(301)
        assert [poll["timeout"] for poll in polls(server)] == [30] * 11
        assert polls(server)[0]["allowed_updates"] == ALLOWED_UPDATES


async def test_an_update_is_acknowledged_only_when_it_is_answered() -> None:
    async with TelegramServer().running() as server:
        server.write("slow", chat=1)
        async with agent(latency=10).running(bot_for(server), enable_server=False):
            await anyio.sleep(9)
            assert len(server.updates) == 1
            assert len(polls(server)) < 25  # it does not spin on the one it has
            await anyio.sleep(3)
            assert (server.sent(), server.updates) == (["slow"], [])


async def test_it_is_said_once_that_a_chat_which_gets_no_answer_holds_up_all_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with TelegramServer().running() as server:
        for number in range(101):
            server.write(f"{number}", chat=number % 2)
        async with agent(latency=1000).running(bot_for(server), enable_server=False, shutdown_timeout=0):
            await anyio.sleep(60)
    [warning] = [message for message in caplog.messages if "no more" in message]
    assert "100 messages" in warning


async def test_a_slow_chat_does_not_hold_up_the_others() -> None:
    model = OfflineModel(lambda request: request.messages[-1].content, latency=0.0)
    served = Agent(model)

    async def slow(context: Any) -> None:
        await anyio.sleep(60 if context.input == "slow" else 0)

    served.before_request(slow)
    async with TelegramServer().running() as server, served.running(bot_for(server), enable_server=False):
        server.write("slow", chat=1)
        await anyio.sleep(1)
        server.write("quick", chat=2)
        await anyio.sleep(2)
        assert server.sent() == ["quick"]
        await anyio.sleep(60)
        assert server.sent() == ["quick", "slow"]


async def test_messages_of_one_chat_are_answered_in_order() -> None:
    async with TelegramServer().running() as server:
        for number in range(10):
            server.write(f"{number}", chat=1)
        async with agent(latency=1).running(bot_for(server), enable_server=False):
            await server.until(lambda server: len(server.sent(1)) == 10)
        assert server.sent(1) == [f"{number}" for number in range(10)]


async def test_a_graceful_restart_loses_nothing_and_repeats_nothing() -> None:
    async with TelegramServer().running() as server:
        for number in range(30):
            server.write(f"{number}", chat=number % 7 + 1)
        for seconds in (1, 5, 0, 12, 200):
            async with agent(latency=1.5).running(bot_for(server), enable_server=False, shutdown_timeout=100):
                await anyio.sleep(seconds)
        assert sorted(server.sent(), key=int) == [f"{number}" for number in range(30)]
        assert server.sent(1) == [f"{number}" for number in range(0, 30, 7)]
        assert server.updates == []


async def test_what_a_cut_off_stop_leaves_undone_comes_again() -> None:
    async with TelegramServer().running() as server:
        server.write("slow", chat=1)
        async with agent(latency=100).running(bot_for(server), enable_server=False, shutdown_timeout=5) as runtime:
            await anyio.sleep(1)
        assert runtime.report is not None and not runtime.report.clean
        assert len(server.updates) == 1
        async with agent().running(bot_for(server), enable_server=False):
            await server.until(lambda server: server.sent())
        assert (server.sent(), server.updates) == (["slow"], [])


async def test_more_updates_than_a_poll_returns_are_all_answered() -> None:
    async with TelegramServer().running() as server:
        for number in range(250):
            server.write(f"{number}", chat=number + 1)
        async with agent(latency=1).running(bot_for(server, max_concurrent_requests=50), enable_server=False):
            await server.until(lambda server: len(server.sent()) == 250)
        assert len(set(server.sent())) == 250


@pytest.mark.parametrize(
    "failure", [Fault("drop"), Page(), Page(b"{", 200), UNDECODABLE, Page(b'"ok"', 200), Refused(500, "oh")]
)
async def test_a_failing_poll_is_tried_again_and_logged_in_one_line(
    failure: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with TelegramServer().running() as server:
        server.fail("getUpdates", *[failure] * 4)
        server.write("hello", chat=1)
        async with agent().running(bot_for(server), enable_server=False):
            await server.until(lambda server: server.sent())
        assert server.sent() == ["hello"]
        gc.collect()  # trio says there what was not closed
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert errors[0].exc_info is None


async def test_a_poll_without_an_answer_is_given_up() -> None:
    async with TelegramServer().running() as server:
        server.fail("getUpdates", Fault("hang"))
        server.write("hello", chat=1)
        async with agent().running(bot_for(server), enable_server=False) as runtime:
            await anyio.sleep(85)
            assert runtime.supervisors[0].state is InterfaceState.RUNNING
            await anyio.sleep(10)
        assert server.sent() == ["hello"]


async def test_a_slow_poll_is_waited_for() -> None:
    async with TelegramServer().running() as server:
        server.fail("getUpdates", Slow(50))
        server.write("hello", chat=1)
        async with agent().running(bot_for(server), enable_server=False):
            await anyio.sleep(55)
        assert server.sent() == ["hello"]


async def test_another_poller_is_backed_off_from_and_shows_in_health(caplog: pytest.LogCaptureFixture) -> None:
    async with TelegramServer().running() as server:
        server.fail("getUpdates", *[CONFLICT] * 1000)
        async with agent().running(bot_for(server), enable_server=False) as runtime:
            await anyio.sleep(500)
            assert len(server.calls) < 20
            well, document = runtime.health()
            assert not well
            assert document["children"]["telegram"] == {"state": "restarting"}
    assert caplog.text.count("terminated by other getUpdates request") == 1
    assert "Another process polls with this token: stop it, or give this bot a token of its own" in caplog.text


async def test_of_two_pollers_one_is_told_to_go() -> None:
    async with TelegramServer().running() as server:
        first, second = bot_for(server), bot_for(server, platform="second")
        async with agent().running(first, second, enable_server=False) as runtime:
            await anyio.sleep(5)
            assert any("409" in (supervisor.error or "") for supervisor in runtime.supervisors)


async def test_a_webhook_that_is_set_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    async with TelegramServer().running() as server:
        server.webhook = {"url": "https://elsewhere.example"}
        async with agent().running(bot_for(server), enable_server=False):
            await anyio.sleep(60)
        assert server.webhook
    assert caplog.text.count("while webhook is active") == 1
    assert "Its updates go to https://elsewhere.example: stop the program there and open" in caplog.text


async def test_a_wrong_token_is_final_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    async with TelegramServer().running() as server:
        bot = bot_for(server, bot_token="1:" + "x" * 35)
        async with agent().running(bot, enable_server=False) as runtime:
            await anyio.sleep(100)
            assert runtime.supervisors[0].state is InterfaceState.FAILED
            assert not runtime.health()[0]
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.getMessage() for record in errors] == [
        "interface telegram has failed for good: getMe: Telegram answered 401: Unauthorized"
    ]
    assert "x" * 35 not in caplog.text


async def test_a_token_that_is_revoked_while_it_polls_is_final() -> None:
    async with TelegramServer().running() as server, agent().running(bot_for(server), enable_server=False) as runtime:
        await anyio.sleep(5)
        server.revoked = True
        await anyio.sleep(900)  # asked again for a while: a single 401 may be an outage
        assert runtime.supervisors[0].state is InterfaceState.FAILED and not runtime.health()[0]


@pytest.mark.parametrize("refusal", [Refused(401, "Unauthorized"), Refused(404, "Not Found")])
async def test_a_single_refusal_of_the_token_is_not_final(refusal: Refused) -> None:
    async with TelegramServer().running() as server, agent().running(bot_for(server), enable_server=False):
        await anyio.sleep(120)
        server.fail("getUpdates", refusal)
        await anyio.sleep(40)
        server.write("hello", chat=1)
        with anyio.fail_after(120):
            await server.until(lambda server: server.sent(1))
        assert server.sent(1) == ["hello"]


async def test_an_unreachable_host_is_one_line_and_goes_on_trying(caplog: pytest.LogCaptureFixture) -> None:
    server = TelegramServer(url="http://127.0.0.1:9")
    async with agent().running(bot_for(server), enable_server=False) as runtime:
        await anyio.sleep(300)
        assert runtime.supervisors[0].state is InterfaceState.RESTARTING
        assert not runtime.health()[0]
    assert len([record for record in caplog.records if record.levelno >= logging.ERROR]) == 1
    assert "Traceback" not in caplog.text


async def test_the_token_is_never_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with TelegramServer().running() as server:
        server.fail("getUpdates", Fault("drop"), Refused(500, "oh"))
        server.fail("sendMessage", Fault("drop"))
        server.write("hello", chat=1)
        bot = bot_for(server)
        async with agent().running(bot, enable_server=False):
            await server.until(lambda server: server.sent())
        secret = server.token.partition(":")[2]
        assert "/bot:token/getUpdates" in caplog.text
        assert secret not in caplog.text
        assert secret not in repr(bot.config)


@pytest.mark.parametrize(
    "update",
    [
        {"message": {"message_id": 1}},
        {"message": None},
        {"message": "text"},
        {"message": {"message_id": "x", "date": 1, "chat": {"id": 1}, "from": {"id": 1}, "text": "hi"}},
        {"message": {"message_id": 1, "date": 1, "chat": {"id": 1}, "from": {"id": 2, "is_bot": True}, "text": "hi"}},
        {"message": {"message_id": 1, "date": 1, "chat": {"id": 1}, "from": {"id": 1}, "new_chat_title": "hi"}},
        {"edited_message": {"message_id": 1}},
        {},
    ],
)
async def test_an_update_that_brings_no_message_holds_nothing_up(
    update: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    async with TelegramServer().running() as server:
        server.push(update)
        server.write("hello", chat=7)
        async with agent().running(bot_for(server), enable_server=False):
            await anyio.sleep(5)
        assert (server.sent(), server.updates) == (["hello"], [])
    assert "Traceback" not in caplog.text


async def test_a_message_of_five_megabytes_holds_nobody_up() -> None:
    async with TelegramServer().running() as server:
        server.write("x" * 5_000_000, chat=1)
        server.write("hello", chat=2)
        served = Agent(OfflineModel(lambda request: "long" if len(request.messages[-1].content) > 100 else "short"))
        async with served.running(bot_for(server), enable_server=False):
            await server.until(lambda server: len(server.sent()) == 2)
        assert (server.sent(1), server.sent(2)) == (["long"], ["short"])


async def test_only_allowed_users_and_chats_are_answered() -> None:
    async with TelegramServer().running() as server:
        bot = bot_for(server, allowed_user_ids=[1, "2"], allowed_chat_ids=[1, -5], groups="all")
        for chat, user in ((1, 1), (1, 3), (2, 2), (-5, 2), (-5, 3)):
            server.write(f"{chat} {user}", chat=chat, user=user)
        async with agent().running(bot, enable_server=False):
            await anyio.sleep(60)
        assert (sorted(server.sent()), server.updates) == (["-5 2", "1 1"], [])


async def test_what_the_bus_did_not_take_comes_again(caplog: pytest.LogCaptureFixture) -> None:
    class FailsOnce(MemoryBus):
        failures = 1

        async def publish(self, name: str, data: Mapping[str, Any], **options: Any) -> bool:
            if self.failures:
                self.failures -= 1
                raise StorageError("the disk is full")
            return await super().publish(name, data, **options)

    async with TelegramServer().running() as server:
        server.write("one", chat=1)
        server.write("two", chat=1)
        async with Agent("offline", bus=FailsOnce()).running(bot_for(server), enable_server=False):
            await server.until(lambda server: len(server.sent()) == 2)
        assert (server.sent(), server.updates) == (["one", "two"], [])
    assert caplog.text.count("the disk is full") == 1


@pytest.mark.parametrize("method", ["getMe", "getUpdates"])
async def test_an_answer_of_another_shape_is_a_failed_connection(method: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with TelegramServer().running() as server:
        server.fail(method, Page(b'{"ok": true, "result": 7}', status=200))
        server.write("hello", chat=1)
        async with agent().running(bot_for(server), enable_server=False):
            await server.until(lambda server: server.sent())
        assert server.sent() == ["hello"]
    assert f"{method}: Telegram answered with something else than a" in caplog.text


async def test_a_platform_that_takes_requests_and_never_answers_shows_in_health() -> None:
    async with TelegramServer().running() as server:
        server.fail("getMe", *[Fault("hang")] * 12)
        async with agent().running(bot_for(server), enable_server=False) as runtime:
            await anyio.sleep(300)  # each try takes the minute after which an interface counts as stable
            for _ in range(100):
                await anyio.sleep(7)
                assert not runtime.health()[0]
            await anyio.sleep(400)
            assert (server.is_failing("getMe"), runtime.health()[0]) == (False, True)


async def test_polls_that_are_never_answered_show_in_health_though_the_bot_is_known() -> None:
    async with TelegramServer().running() as server:
        server.fail("getUpdates", *[Fault("hang")] * 15)
        async with agent().running(bot_for(server), enable_server=False) as runtime:
            await anyio.sleep(200)
            for _ in range(100):
                await anyio.sleep(7)
                assert not runtime.health()[0]
            await anyio.sleep(900)
            assert (server.is_failing("getUpdates"), runtime.health()[0]) == (False, True)


async def test_what_cannot_be_acknowledged_at_the_end_is_said(caplog: pytest.LogCaptureFixture) -> None:
    async with TelegramServer().running() as server:
        server.write("hello", chat=1)
        async with agent().running(bot_for(server), enable_server=False) as runtime:
            await server.until(lambda server: server.sent())
            server.fail("getUpdates", *[Refused(400, "Bad Request: no")] * 2)
            runtime.stop()
    assert "telegram: the last updates cannot be acknowledged: " in caplog.text
