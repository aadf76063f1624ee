"""What attackers try, as tables: forged requests of pages, forged hosts and addresses, guesses, and secrets in logs.

`test_browsers.py`, `test_forwarded.py` and `test_callers.py` have the rules by themselves; real browsers are in
`test_other_origins_in_browser.py`.
"""

from __future__ import annotations

import hmac
import logging
from itertools import product
from typing import Any

import pytest
from loopback.agent_api import Serve
from quart import redirect, url_for

from definable.agent import Agent
from definable.agent.auth import APIKey, APIKeyAuth, AuthContext, AuthRequest, CompositeAuth, JWTAuth
from definable.agent.session import MemorySessionStore, Session
from definable.agent.trigger import Webhook
from definable.testing import served

pytestmark = pytest.mark.anyio

SECRET = "a secret of at least 32 bytes, no less"

EVIL = {"origin": "https://evil.example"}


class Cookie:
    """Knows its caller by what the browser adds."""

    platforms = frozenset({"http"})

    def authenticate(self, request: AuthRequest) -> AuthContext | None:
        return AuthContext("ann") if "session=ann" in (request.header("Cookie") or "") else None


class Traces:
    """What an attack has set off."""

    def __init__(self, auth: Any = None) -> None:
        self.found: list[str] = []
        self.agent = Agent("offline", auth=auth)
        self.agent.before_request(lambda context: self.found.append("run"))
        self.agent.on(Webhook("/hook", method=["GET", "POST"]))(lambda event: self.found.append("webhook"))

        @self.agent.blueprint.route("/own", methods=["POST"])
        async def own() -> str:
            self.found.append("route")
            return "done"


# Cross-site requests: every mode of fetch, a form of every kind, a link, an image; open, and with a cookie.

MODES = ["cors", "no-cors", "navigate", "same-origin", "websocket"]

SITES = ["cross-site", "same-site"]

ORIGINS: list[dict[str, str]] = [EVIL, {"origin": "null"}, {}]

FORMS: dict[str, dict[str, Any]] = {
    "a form": {"data": {"input": "hi"}},
    "a form of text": {"content": b'{"input":"hi","x":"=', "headers": {"content-type": "text/plain"}},
    "a form with a file": {"files": {"input": b"hi"}},
    "JSON": {"json": {"input": "hi"}},
    "JSON without a type": {"content": b'{"input":"hi"}'},
    "nothing": {},
}


@pytest.mark.parametrize("auth", [None, Cookie()], ids=["open", "with a cookie"])
async def test_no_page_of_another_site_sets_anything_off(serve: Serve, auth: Any) -> None:
    traces = Traces(auth)
    cookie = {"cookie": "session=ann"}
    async with serve(traces.agent) as client:
        tried = [("cors", "cross-site", form, origin) for form, origin in product(FORMS.values(), ORIGINS)]
        tried += [(mode, site, FORMS["a form"], EVIL) for mode, site in product(MODES, SITES)]
        for path, (mode, site, form, origin) in product(("/run", "/hook", "/own"), tried):
            fetch = {"sec-fetch-site": site, "sec-fetch-mode": mode, "sec-fetch-dest": "empty"}
            sent = {**form, "headers": {**form.get("headers", {}), **fetch, **origin, **cookie}}
            response = await client.post(path, **sent)
            assert response.status_code in (403, 415), (path, mode, site, form, origin)
        for origin in (EVIL, {"origin": "null"}):  # browsers from before `Sec-Fetch-Site`
            for form in FORMS.values():
                sent = {**form, "headers": {**form.get("headers", {}), **origin, **cookie}}
                assert (await client.post("/hook", **sent)).status_code == 403
        for dest in ("document", "image", "script", "iframe"):
            headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": dest, **cookie}
            assert (await client.get("/hook", headers=headers)).status_code == 403
        headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
        assert (await client.get("/hook", headers=headers | cookie)).status_code == 403, "a link has an effect there"
        assert traces.found == []
        ours = {"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors", **cookie}
        assert (await client.post("/run", json={"input": "hi"}, headers=ours)).status_code == 200
        assert traces.found == ["run"]


# Rebinding, and poisoned hosts: what the client writes decides neither who it is nor where others are sent.

POISON: dict[str, dict[str, str]] = {
    "X-Forwarded-Host": {"x-forwarded-host": "evil.example"},
    "Forwarded": {"forwarded": "for=127.0.0.1;host=evil.example;proto=https"},
    "X-Host": {"x-host": "evil.example", "x-original-url": "/own", "x-rewrite-url": "/own"},
    "X-Forwarded-Prefix": {"x-forwarded-prefix": "//evil.example", "x-script-name": "//evil.example"},
}


@pytest.mark.parametrize("name", POISON)
async def test_a_poisoned_header_shows_in_no_answer(serve: Serve, name: str) -> None:
    agent = Agent("offline")
    agent.on(Webhook("/later", respond="accept"))(lambda event: None)

    @agent.blueprint.get("/go")
    async def go() -> Any:
        return redirect(url_for("agent.go", _external=False))

    async with serve(agent, dev=True) as client:
        for method, path, options in (
            ("POST", "/run", {"json": {"input": "hi"}}),
            ("POST", "/run", {"json": {"input": "hi"}, "headers": {"prefer": "respond-async"}}),
            ("POST", "/later", {}),
            ("GET", "/health", {}),
            ("GET", "/runs", {}),
            ("GET", "/openapi.json", {}),
            ("GET", "/docs", {}),
            ("GET", "/nowhere", {}),
            ("GET", "/go", {}),
        ):
            headers = {**options.get("headers", {}), **POISON[name]}
            response = await client.request(method, path, **{**options, "headers": headers})
            assert "evil.example" not in response.text
            assert not any("evil.example" in value for value in response.headers.values())


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil.example"]
)
async def test_a_name_that_was_bound_to_this_machine_gets_nothing(host: str) -> None:
    traces = Traces()
    async with served(traces.agent, host="127.0.0.1") as service:
        for path in ("/run", "/hook", "/own", "/runs", "/openapi.json"):
            headers = {"host": host, "origin": f"http://{host}", "sec-fetch-site": "same-origin"}
            response = await service.client.post(path, json={"input": "hi"}, headers=headers)
            assert response.status_code == 421
    assert traces.found == []


async def test_nobody_but_a_trusted_proxy_says_where_a_request_came_from() -> None:
    seen: list[Any] = []
    agent = Agent("offline")
    agent.on(Webhook("/who"))(lambda event: seen.append((event.raw.client[0], event.raw.url.split("/")[2])))
    headers = {"x-forwarded-for": "192.0.2.7", "forwarded": "for=192.0.2.7", "x-real-ip": "192.0.2.7"}
    async with served(agent, trusted_proxies=["10.0.0.0/8"]) as service:
        await service.client.post("/who", headers=headers | {"x-forwarded-host": "evil.example"})
        host = service.client.base_url.netloc.decode()
    assert seen == [("127.0.0.1", host)]


# Guesses: what is somebody else's, what there was, and what never was cannot be told apart.


async def test_keys_tokens_and_users_cannot_be_told_from_each_other(serve: Serve) -> None:
    keys = {"ann": APIKey("ann's"), "old": APIKey("expired", expires=1)}
    agent = Agent("offline", auth=CompositeAuth(APIKeyAuth(keys), JWTAuth(SECRET)))
    async with serve(agent) as client:
        answers: set[tuple[Any, ...]] = set()
        for headers in (
            {},
            {"x-api-key": "expired"},
            {"x-api-key": "ann"},
            {"x-api-key": "ann'"},
            {"x-api-key": ""},
            {"authorization": "Bearer expired"},
            {"authorization": "Bearer e30.e30.e30"},
            {"authorization": "Basic YW5uOmFubg=="},
        ):
            response = await client.get("/runs", headers=headers)
            kept = {name: value for name, value in response.headers.items() if name != "date"}
            answers.add((response.status_code, response.text, tuple(sorted(kept.items()))))
        assert len(answers) == 1
        assert next(iter(answers))[0] == 401


async def test_runs_and_sessions_of_others_are_as_if_they_were_not(serve: Serve) -> None:
    agent = Agent("offline", auth=APIKeyAuth({"ann": "a", "eve": "e"}))
    ann, eve = {"x-api-key": "a"}, {"x-api-key": "e"}
    async with serve(agent) as client:
        mine = (await client.post("/run", json={"input": "hi", "session_id": "trip"}, headers=ann)).json()
        for method, path in product(("GET", "DELETE"), ("/runs/{}", "/sessions/{}", "/runs/{}/events")):
            known = mine["run_id"] if path.startswith("/runs") else "trip"
            of_ann = await client.request(method, path.format(known), headers=eve)
            of_nobody = await client.request(method, path.format("0" * len(known)), headers=eve)
            assert of_ann.status_code == of_nobody.status_code in (404, 405)
            assert of_ann.text == of_nobody.text
        assert (await client.get("/sessions/trip", headers=ann)).status_code == 200
        assert (await client.get(f"/runs/{mine['run_id']}", headers=ann)).status_code == 200


# The same by time: a clock would tell of the machine, so what is counted is the work.


class CountingStore(MemorySessionStore):
    """Sessions in memory, and what was asked of them: the operation, and how many messages it found."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, int]] = []

    async def load(self, session_id: str) -> Session | None:
        session = await super().load(session_id)
        self.asked.append(("load", 0 if session is None else len(session.messages)))
        return session

    async def save(self, session: Session) -> None:
        self.asked.append(("save", len(session.messages)))
        await super().save(session)

    async def delete(self, session_id: str) -> bool:
        self.asked.append(("delete", 0))
        return await super().delete(session_id)


@pytest.mark.parametrize(
    "presented",
    ["first-key", "last-key", "expired", "first-ke", "first-kez", "xirst-key", "last-kez", "", "x" * 100_000, "\xff"],
    ids=[
        "first",
        "last",
        "expired",
        "begin",
        "last differs",
        "first differs",
        "like the last",
        "empty",
        "long",
        "byte",
    ],
)
def test_a_key_is_compared_with_all_others_by_what_takes_constant_time(
    presented: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A comparison with `==`, or one that ends at the first key that fits, would be missing here."""
    keys = {"first": "first-key", "old": APIKey("expired", expires=1), "more": "more", "last": "last-key"}
    auth, compared, compare = APIKeyAuth(keys), list[tuple[Any, Any]](), hmac.compare_digest

    def counted(known: Any, given: Any) -> bool:
        compared.append((known, given))
        return compare(known, given)

    monkeypatch.setattr(hmac, "compare_digest", counted)
    auth.authenticate(AuthRequest(headers={"x-api-key": presented}))
    given = presented.encode("latin-1")
    assert compared == [(key, given) for key in (b"first-key", b"expired", b"more", b"last-key")]


@pytest.mark.parametrize("session_id", ["trip", "telegram~7"])
@pytest.mark.parametrize("request_of", ["GET", "DELETE", "POST /run"])
async def test_a_session_of_somebody_else_takes_the_same_work_as_none(session_id: str, request_of: str) -> None:
    store, ann, eve = CountingStore(), {"x-api-key": "a"}, {"x-api-key": "e"}
    agent = Agent("offline", auth=APIKeyAuth({"ann": "a", "eve": "e"}), sessions=store)
    async with served(agent) as service:
        for _ in range(5):
            began = await service.client.post("/run", json={"input": "hi", "session_id": session_id}, headers=ann)
            assert began.status_code == 200
        work: list[list[tuple[str, int]]] = []
        for name in (session_id, "0" * len(session_id)):
            store.asked.clear()
            if request_of == "POST /run":
                await service.client.post("/run", json={"input": "hi", "session_id": name}, headers=eve)
            else:
                await service.client.request(request_of, f"/sessions/{name}", headers=eve)
            work.append([*store.asked])
    assert work[0] == work[1] != []


# Secrets in logs: `planted_secrets` looks in every record of every test; here they are put wherever they might be.


async def test_no_secret_of_a_request_is_logged(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    planted = "planted-0123456789"
    agent = Agent("offline", auth=CompositeAuth(APIKeyAuth("k"), JWTAuth(SECRET)))
    with caplog.at_level(logging.DEBUG):
        async with serve(agent, access_log=True) as client:
            for headers in (
                {"x-api-key": planted},
                {"authorization": f"Bearer {planted}"},
                {"authorization": f"Bearer {planted}.{planted}.{planted}"},
                {"authorization": f"Basic {planted}"},
                {"cookie": f"session={planted}"},
                {"x-hub-signature-256": f"sha256={planted}"},
            ):
                response = await client.get("/runs", params={"token": planted}, headers=headers)
                assert planted not in response.text
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("definable")]
    assert ours and not any(planted in line for line in ours)
