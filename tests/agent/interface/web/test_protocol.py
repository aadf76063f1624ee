"""What the page and the service say to each other, over HTTP: `loopback.chat_page` stands for the page."""

from __future__ import annotations

import logging
from base64 import b64encode
from contextlib import suppress
from typing import Any

import anyio
import httpx2
import pytest
from loopback.agent_api import Held
from loopback.chat_page import ChatPage, chat_page
from loopback.slow_typist import SlowTypist

from definable.agent import Agent
from definable.agent.auth import APIKeyAuth
from definable.agent.bus import SQLiteBus
from definable.agent.interface import InterfaceHook, InterfaceResponse, Media, WebInterface
from definable.agent.session import SQLiteSessionStore
from definable.errors import ConfigurationError
from definable.model import ModelRequest, OfflineModel
from definable.testing import Served, served

pytestmark = pytest.mark.anyio

SECRET = "a secret of the tests alone"

TIME_LIMIT = 40.0

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)


def web(**settings: Any) -> WebInterface:
    return WebInterface(**{"secret": SECRET, "collect": 0} | settings)


def url_of(service: Served) -> str:
    assert service.runtime.url is not None
    return service.runtime.url


async def test_a_message_is_answered_and_every_tab_of_its_user_shows_both() -> None:
    with anyio.fail_after(TIME_LIMIT):
        async with served(Agent("offline"), web()) as service, chat_page(url_of(service)) as page:
            async with page.events() as first, page.events() as second:
                assert await first.next() == await second.next() == "state"
                assert (await page.say("hello")).status_code == 202
                assert await first.answered() == await second.answered() == ["hello"]
                assert first.texts() == second.texts() == ["hello", "hello"]
                assert "busy" in first.kinds and not first.busy
    assert service.runtime.report is not None and service.runtime.report.clean


async def test_another_visitor_sees_nothing_of_it() -> None:
    with anyio.fail_after(TIME_LIMIT):
        async with served(Agent("offline"), web()) as service:
            async with chat_page(url_of(service)) as ann, chat_page(url_of(service)) as bob:
                async with ann.events() as hers, bob.events() as his:
                    await ann.say("a secret")
                    await hers.answered()
                    await bob.say("hello")
                    assert await his.answered() == ["hello"]
                    assert his.texts() == ["hello", "hello"]


async def test_a_message_that_comes_twice_is_answered_once() -> None:
    model = OfflineModel()
    with anyio.fail_after(TIME_LIMIT):
        async with served(Agent(model), web()) as service, chat_page(url_of(service)) as page:
            async with page.events() as events:
                statuses = [(await page.say("once", id="message-1")).status_code for _ in range(3)]
                await events.answered()
                statuses.append((await page.say("once", id="message-1")).status_code)
                await page.say("next")
                assert await events.answered(2) == ["once", "next"]
    assert statuses == [202, 200, 200, 200]
    assert len(model.requests) == 2


async def test_a_long_reply_comes_as_it_is_written_and_every_piece_once() -> None:
    words = " ".join(f"word{number}" for number in range(300))
    model = SlowTypist(words, pause=0.004)
    with anyio.fail_after(TIME_LIMIT):
        async with served(Agent(model), web()) as service, chat_page(url_of(service)) as page:
            async with page.events() as events:
                await page.say("go on")
                assert await events.answered() == [words]
    assert events.kinds.count("delta") > 2 and events.kinds.count("done") == 1
    assert events.kinds.count("entry") == 2  # what was said, and the beginning of the answer


async def test_a_page_that_was_cut_off_gets_what_it_missed_and_nothing_twice() -> None:
    hold = Held("done")
    with anyio.fail_after(TIME_LIMIT):
        async with served(Agent(OfflineModel(hold)), web()) as service, chat_page(url_of(service)) as page:
            async with page.events() as events:
                await page.say("one")
                await events.until(lambda seen: seen.busy)
            hold.go_on.set()
            await page.say("two")
            async with page.events(events.last_id) as again:
                again.entries, again.busy = events.entries, events.busy
                await again.until(lambda seen: len(seen.answers()) == 2 and not seen.busy)
                assert "state" not in again.kinds
                assert [each["role"] for each in again.entries.values()].count("user") == 2
            async with page.events("another-17") as anew:
                assert await anew.next() == "state"
                assert sorted(anew.texts()) == sorted(again.texts())


async def test_the_conversation_is_there_after_a_restart_for_the_same_visitor(tmp_path: Any) -> None:
    def agent() -> Agent:
        return Agent("offline", sessions=SQLiteSessionStore(tmp_path / "sessions.db"))

    with anyio.fail_after(TIME_LIMIT):
        async with httpx2.AsyncClient(timeout=30, trust_env=False) as client:
            async with served(agent(), web()) as service:
                page = ChatPage(client, f"{url_of(service)}/chat")
                await page.enter()
                async with page.events() as events:
                    await page.say("remember me")
                    await events.answered()
            async with served(agent(), web()) as service:
                client.cookies = httpx2.Cookies({cookie.name: cookie.value or "" for cookie in client.cookies.jar})
                page = ChatPage(client, f"{url_of(service)}/chat")
                async with page.events() as events:
                    await events.next()
                    assert events.texts() == ["remember me", "remember me"]
                    assert [each["role"] for each in events.entries.values()] == ["user", "agent"]


class Shouting(InterfaceHook):
    async def on_after_respond(self, message: Any, response: InterfaceResponse, session: Any) -> InterfaceResponse:
        return InterfaceResponse("REDACTED")


async def test_what_a_hook_has_replaced_is_not_shown_from_the_session_either() -> None:
    with anyio.fail_after(TIME_LIMIT):
        interface = web(max_chats=1)
        interface.add_hook(Shouting())
        async with served(Agent("offline"), interface) as service, chat_page(url_of(service)) as ann:
            async with ann.events() as events:
                await ann.say("the code is 1234")
                assert await events.answered() == ["REDACTED"]
            async with chat_page(url_of(service)) as bob, bob.events():
                pass  # takes ann's place in memory
            async with ann.events() as events:
                await events.next()
                assert events.texts() == ["the code is 1234"]


FORGED = ["", "visitor_x.1.y", "visitor_AAAAAAAAAAAAAAAAAAAAAA.1700000000." + "A" * 43, ';;=,"x']


async def test_a_forged_name_is_nobody() -> None:
    with anyio.fail_after(TIME_LIMIT):
        async with served(Agent("offline"), web()) as service:
            for cookie in FORGED:
                page = ChatPage(service.client, headers={"cookie": f"definable_chat={cookie}"})
                assert (await page.say("hello")).status_code == 401
                assert (await service.client.get("/chat/events", headers=page.headers)).status_code == 401
                entered = await page.enter()
                assert entered.json() == {"status": "new"}
                assert "HttpOnly; SameSite=Strict" in entered.headers["set-cookie"]
                assert "Path=/chat;" in entered.headers["set-cookie"]


async def test_a_page_in_a_frame_has_its_name_in_a_header() -> None:
    with anyio.fail_after(TIME_LIMIT):
        async with served(Agent("offline"), web()) as service:
            entered = await ChatPage(service.client).enter(framed=True)
            assert "set-cookie" not in entered.headers
            page = ChatPage(service.client, headers={"x-chat-visitor": entered.json()["visitor"]})
            async with page.events() as events:
                await page.say("hello")
                assert await events.answered() == ["hello"]


FOREIGN = [
    {"origin": "https://evil.example"},
    {"origin": "https://evil.example", "sec-fetch-site": "cross-site"},
    {"origin": "null"},
]


async def test_a_page_of_another_origin_may_neither_write_nor_listen() -> None:
    with anyio.fail_after(TIME_LIMIT):
        async with served(Agent("offline"), web()) as service, chat_page(url_of(service)) as page:
            for headers in FOREIGN:
                page.headers = headers
                assert (await page.say("hello")).status_code == 403
                assert (await page.enter()).status_code == 403
                assert (await page.client.get("/chat/events", headers=headers)).status_code == 403
                embedded = await page.client.get("/chat/widget.js", headers=headers | {"sec-fetch-dest": "script"})
                assert embedded.status_code == 200


async def test_a_form_of_another_site_cannot_write() -> None:
    with anyio.fail_after(TIME_LIMIT):
        async with served(Agent("offline"), web()) as service, chat_page(url_of(service)) as page:
            for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
                content = b'{"id": "message-1", "text": "hello"}'
                answer = await page.client.post("/chat/messages", content=content, headers={"content-type": kind})
                assert answer.status_code in (415, 422), kind


REFUSED: list[tuple[dict[str, Any], int]] = [
    ({"text": "x" * 101}, 413),
    ({"text": " "}, 422),
    ({"id": "short", "text": "x"}, 422),
    ({"id": "message/1234", "text": "x"}, 422),
    ({"text": "x", "images": [{"type": "image/svg+xml", "data": ""}]}, 422),
    ({"text": "x", "images": [{"type": "image/png", "data": "no base64!"}]}, 422),
    ({"text": "x", "images": [{"type": "image/png", "data": b64encode(bytes(2_000)).decode()}]}, 422),
    ({"text": "x", "images": [{"type": "image/png", "data": ""}] * 3}, 422),
    ({"text": "x", "more": "y" * 20_000}, 413),
]


async def test_what_is_too_large_or_is_no_message_is_refused() -> None:
    with anyio.fail_after(TIME_LIMIT):
        interface = web(max_input_length=100, max_upload_bytes=1_000, max_images=2)
        async with served(Agent("offline"), interface) as service, chat_page(url_of(service)) as page:
            for body, status in REFUSED:
                answer = await page.client.post("/chat/messages", json={"id": "message-1"} | body)
                assert answer.status_code == status, body
                assert answer.headers["content-type"] == "application/problem+json"
            async with page.events() as events:
                await events.next()
                assert events.texts() == []


async def test_images_reach_the_model() -> None:
    seen: list[int] = []

    def look(request: ModelRequest) -> str:
        seen.append(len(request.messages[-1].images))
        return "nice"

    with anyio.fail_after(TIME_LIMIT):
        async with served(Agent(OfflineModel(look)), web()) as service, chat_page(url_of(service)) as page:
            async with page.events() as events:
                image = {"type": "image/png", "data": b64encode(PNG).decode()}
                await page.say("look", images=[image, image])
                await events.answered()
                assert next(iter(events.entries.values()))["images"] == 2
    assert seen == [2]


class WithFile(InterfaceHook):
    async def on_after_respond(self, message: Any, response: InterfaceResponse, session: Any) -> InterfaceResponse:
        page = Media(b"<script>alert(1)</script>", media_type="text/html", filename='a "page".html')
        return InterfaceResponse("here", files=(page,))


async def test_files_are_downloads_for_their_user_alone() -> None:
    with anyio.fail_after(TIME_LIMIT):
        interface = web()
        interface.add_hook(WithFile())
        async with served(Agent("offline"), interface) as service, chat_page(url_of(service)) as ann:
            async with ann.events() as events:
                await ann.say("a page, please")
                await events.answered()
                [file] = list(events.entries.values())[1]["files"]
            assert (file["name"], file["size"]) == ('a "page".html', 25)
            answer = await ann.client.get(f"/chat/files/{file['id']}")
            assert answer.content == b"<script>alert(1)</script>"
            assert answer.headers["content-type"] == "application/octet-stream"
            assert answer.headers["content-disposition"].startswith("attachment;")
            async with chat_page(url_of(service)) as bob:
                assert (await bob.client.get(f"/chat/files/{file['id']}")).status_code == 404


async def test_a_flood_is_told_to_slow_down_and_nothing_is_lost_within_the_limit() -> None:
    hold = Held("done")
    with anyio.fail_after(TIME_LIMIT):
        interface = web(rate_limit_messages_per_minute=1_000)
        async with served(Agent(OfflineModel(hold)), interface) as service, chat_page(url_of(service)) as page:
            async with page.events() as events:
                statuses = [(await page.say(f"message {number}")).status_code for number in range(25)]
                assert (statuses.count(202), statuses.count(429)) == (20, 5)
                hold.go_on.set()
                assert len(await events.answered(20)) == 20


async def test_stop_ends_what_is_being_answered_and_is_in_the_menu() -> None:
    hold = Held("done")
    with anyio.fail_after(TIME_LIMIT):
        async with served(Agent(OfflineModel(hold)), web()) as service, chat_page(url_of(service)) as page:
            async with page.events() as events:
                await page.say("think about it")
                await hold.until(lambda held: held.arrived == 1)
                assert (await page.say("/stop", quiet=True)).status_code == 202
                assert await events.answered() == ["Stopped."]
                assert events.texts() == ["think about it", "Stopped."]
                await events.until(lambda seen: {"stop", "new", "help"} <= set(seen.commands))
    assert hold.cancelled == 1


async def test_messages_that_were_collected_are_all_answered() -> None:
    with anyio.fail_after(TIME_LIMIT):
        async with served(Agent("offline"), web(collect=0.3)) as service, chat_page(url_of(service)) as page:
            async with page.events() as events:
                for text in ("one", "two"):
                    await page.say(text)
                await events.until(lambda seen: "two" in "".join(seen.answers()) and not seen.busy)


async def test_the_oldest_of_too_many_tabs_is_told_so() -> None:
    with anyio.fail_after(TIME_LIMIT):
        async with served(Agent("offline"), web(max_tabs=2)) as service, chat_page(url_of(service)) as page:
            async with page.events() as first, page.events() as second, page.events() as third:
                assert await second.next() == await third.next() == "state"
                while await first.next() is not None:
                    pass
                assert first.kinds[-1] == "replaced"
                await page.say("hello")
                assert await second.answered() == await third.answered() == ["hello"]


async def test_chats_that_nobody_watches_make_way_and_come_back_from_the_session() -> None:
    with anyio.fail_after(TIME_LIMIT):
        async with served(Agent("offline"), web(max_chats=2)) as service, chat_page(url_of(service)) as ann:
            async with ann.events() as events:
                await ann.say("hello")
                await events.answered()
            async with chat_page(url_of(service)) as bob, chat_page(url_of(service)) as cid:
                async with bob.events() as his, cid.events() as theirs:
                    assert await his.next() == await theirs.next() == "state"
                    assert (await ann.say("no place")).status_code == 503
            async with ann.events() as events:
                await events.next()
                assert events.texts() == ["hello", "hello"]


class AnsweredElsewhere(WebInterface):
    """Its pages hear nothing of answers, as where another replica makes them."""

    async def send(self, message: Any, response: Any) -> None: ...
    async def post(self, message: Any, text: str) -> None: ...
    async def typing(self, message: Any) -> None: ...
    def answer_ended(self, message: Any) -> None: ...


async def test_what_another_replica_has_answered_is_shown_from_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("definable.agent.interface.web.chat.WORKING_SECONDS", 0.1)
    monkeypatch.setattr("definable.agent.interface.web.endpoints.CHECK_INTERVAL", 0.1)
    with anyio.fail_after(TIME_LIMIT):
        interface = AnsweredElsewhere(secret=SECRET, collect=0)
        async with served(Agent("offline"), interface) as service, chat_page(url_of(service)) as page:
            async with page.events() as events:
                await page.say("hello")
                assert await events.answered() == ["hello"]
                assert events.texts() == ["hello", "hello"] and events.kinds.count("state") == 2
                await page.say("again")
                assert await events.answered(2) == ["hello", "again"]


@pytest.mark.parametrize("durable", [False, True], ids=["in memory", "durable"])
async def test_a_stop_finishes_the_answer_and_shows_it(durable: bool, tmp_path: Any) -> None:
    hold = Held("done")
    bus = SQLiteBus(tmp_path / "bus.db") if durable else None
    agent = Agent(OfflineModel(hold), bus=bus)
    with anyio.fail_after(TIME_LIMIT):
        async with anyio.create_task_group() as group:
            async with served(agent, web()) as service, chat_page(url_of(service)) as page:
                async with page.events() as idle_before:
                    await idle_before.next()
                async with page.events() as events:
                    await page.say("the last one")
                    await hold.until(lambda it: it.arrived > 0)
                    service.runtime.stop()

                    async def release() -> None:
                        with suppress(httpx2.TransportError):
                            while (await service.client.get("/health")).status_code == 200:
                                await anyio.sleep(0.01)
                        hold.go_on.set()

                    group.start_soon(release)
                    while await events.next() is not None:
                        pass
                    assert events.answers() == ["done"]
    assert service.runtime.report is not None and service.runtime.report.clean


async def test_an_idle_page_holds_up_no_stop() -> None:
    with anyio.fail_after(TIME_LIMIT):
        async with served(Agent("offline"), web()) as service, chat_page(url_of(service)) as page:
            async with page.events() as events:
                await events.next()
                service.runtime.stop()
                while await events.next() is not None:
                    pass
    assert service.runtime.report is not None and service.runtime.report.clean


async def test_where_the_agent_has_auth_the_page_needs_its_credentials(caplog: pytest.LogCaptureFixture) -> None:
    agent = Agent("offline", auth=APIKeyAuth({"key-of-ann-12345", "key-of-bob-12345"}))
    with anyio.fail_after(TIME_LIMIT), caplog.at_level(logging.WARNING):
        async with served(agent, WebInterface(collect=0)) as service:
            assert (await service.client.get("/chat")).status_code == 200
            stranger = ChatPage(service.client)
            assert (await stranger.enter()).status_code == (await stranger.say("hello")).status_code == 401
            ann = ChatPage(service.client, headers={"authorization": "Bearer key-of-ann-12345"})
            bob = ChatPage(service.client, headers={"authorization": "Bearer key-of-bob-12345"})
            assert (await ann.enter()).json() == {"status": "known"}
            async with ann.events() as hers, bob.events() as his:
                await ann.say("mine")
                assert await hers.answered() == ["mine"]
                await his.next()
                assert his.texts() == []
    assert not [record for record in caplog.records if "open to everybody" in record.message]


async def test_an_interface_with_a_provider_of_its_own_asks_that_one_alone() -> None:
    with anyio.fail_after(TIME_LIMIT):
        agent, interface = (
            Agent("offline", auth=APIKeyAuth("the-agents-own-key")),
            web(auth=APIKeyAuth("the-chats-key")),
        )
        async with served(agent, interface) as service:
            page = ChatPage(service.client, headers={"authorization": "Bearer the-agents-own-key"})
            assert (await page.say("hello")).status_code == 401
            page.headers = {"authorization": "Bearer the-chats-key"}
            async with page.events() as events:
                await page.say("hello")
                assert await events.answered() == ["hello"]


async def test_with_auth_false_visitors_are_let_in_although_the_agent_has_auth() -> None:
    with anyio.fail_after(TIME_LIMIT):
        agent = Agent("offline", auth=APIKeyAuth("the-agents-own-key"))
        async with served(agent, web(auth=False)) as service, chat_page(url_of(service)) as page:
            async with page.events() as events:
                await page.say("hello")
                assert await events.answered() == ["hello"]


async def test_without_a_secret_it_is_said_what_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    with anyio.fail_after(TIME_LIMIT), caplog.at_level(logging.WARNING):
        async with served(Agent("offline"), WebInterface()) as service, chat_page(url_of(service)):
            pass
    assert [record for record in caplog.records if "nobody is known after a restart" in record.getMessage()]


async def test_pages_and_their_files_say_what_may_be_done_with_them() -> None:
    with anyio.fail_after(TIME_LIMIT):
        interface = web(path="/help/desk", title="<Desk> & Co", allowed_origins=["https://shop.example"])
        async with served(Agent("offline"), interface) as service:
            page = await service.client.get("/help/desk")
            assert "&lt;Desk&gt; &amp; Co" in page.text and "<Desk>" not in page.text
            assert 'src="desk/app.js"' in page.text
            policy = page.headers["content-security-policy"]
            assert "frame-ancestors 'self' https://shop.example" in policy and "'unsafe" not in policy
            for name in ("app.js", "connection.js", "markdown.js", "style.css", "widget.js", "icon.svg"):
                file = await service.client.get(f"/help/desk/{name}")
                assert (file.status_code, file.headers["x-content-type-options"]) == (200, "nosniff")
                known = {"if-none-match": file.headers["etag"]}
                assert (await service.client.get(f"/help/desk/{name}", headers=known)).status_code == 304
            for name in ("page.html", "..%2fconfig.py", "interface.py", ""):
                assert (await service.client.get(f"/help/desk/{name}")).status_code == 404


@pytest.mark.parametrize(
    "settings",
    [
        {"path": "chat"},
        {"path": "/"},
        {"secret": "short"},
        {"allowed_origins": ["https://shop.example/path"]},
        {"allowed_origins": ["*"]},
        {"max_tabs": 0},
        {"language": "e"},
    ],
    ids=["no slash", "root", "secret", "path", "everybody", "tabs", "language"],
)
def test_wrong_settings_are_refused_at_once(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        WebInterface(**settings)
