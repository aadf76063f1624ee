"""The chat page and the widget in a real browser: by keyboard, on a phone, in the dark, in another site's page."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import anyio
import pytest
from loopback.browser import Browser, BrowserMissing, browsing, find
from quart import request

from definable.agent import Agent
from definable.agent.auth import APIKeyAuth
from definable.agent.interface import Button, InterfaceHook, InterfaceMessage, InterfaceResponse, Media, WebInterface
from definable.testing import Served, served

pytestmark = pytest.mark.anyio

SECRET = "a secret of the tests alone"

SHOP, EVIL = "shop.example", "evil.example"

TAB, ENTER, ESCAPE = "\ue004", "\ue007", "\ue00c"
"""WebDriver, section 17.4.2."""

SAID = "//ol[@id='log']/li[contains(@class, 'agent') and not(contains(@class, 'draft'))]"

HARM = [
    "<script>window.harmed = 1</script>",
    "<img src=x onerror='window.harmed = 1'>",
    "<svg onload='window.harmed = 1'></svg>",
    "<iframe srcdoc='<script>parent.harmed = 1</script>'></iframe>",
    "<a href='javascript:window.harmed = 1'>press</a>",
    "<style>body { display: none }</style>",
    "[press](javascript:window.harmed=1)",
    "[press](JaVaScRiPt:window.harmed=1)",
    "[press](&#106;avascript:window.harmed=1)",
    "[press](data:text/html,<script>window.harmed=1</script>)",
    "[press](vbscript:window.harmed)",
    "[press](//evil.example/a)",
    "![x](javascript:window.harmed=1)",
    "<javascript:window.harmed=1>",
    "```html\n<script>window.harmed = 1</script>\n```",
    "`<img src=x onerror=window.harmed=1>`",
    "| <img src=x onerror=window.harmed=1> | b |\n|---|---|\n| <script>window.harmed=1</script> | d |",
    "> <script>window.harmed=1</script>",
    "- <img src=x onerror=window.harmed=1>",
    "# <script>window.harmed=1</script>",
    "</textarea></script></div><script>window.harmed=1</script>",
    "{{constructor.constructor('window.harmed=1')()}}",
    '[a](https://a.example"onmouseover="window.harmed=1)',
]
"""What somebody may try to make markup of the page."""

ENDLESS = ["*a ", "**a", "[", "[a](b", "![", "`a``", "_a ", "~~x", "*_`[", "<https://", "> ", "- ", "|a", "#", "\\"]
"""What a parser may take quadratic time for, where it comes again and again."""

LONG = (
    "| a column | another | and one more | and the last of them |\n|---|---|---|---|\n| "
    + "word " * 20
    + "| b | c | d |\n\n"
    "```\n" + "x" * 400 + "\n```\n\n" + "W" * 300 + "\n\n[a link](https://a.example/" + "y" * 300 + ")\n\n"
    "1. one\n   - two\n     > three\n\n\u0645\u0631\u062d\u0628\u0627"
)


@pytest.fixture(scope="module")
def programs() -> tuple[str, str]:
    try:
        return find()
    except BrowserMissing as missing:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(missing))


def web(**settings: Any) -> WebInterface:
    return WebInterface(**{"secret": SECRET, "collect": 0, "greeting": "Hello, **you**"} | settings)


async def connected(browser: Browser) -> None:
    """Wait until the page listens."""
    await browser.text("//body[@data-state='connected']")


async def say(browser: Browser, text: str) -> None:
    """Put a text in the field, and press Enter there."""
    await connected(browser)
    await browser.run(
        "const [text] = args; const f = document.querySelector('#text'); f.value = text; f.focus();", text
    )
    await browser.press(ENTER)


async def answer(browser: Browser, number: int) -> str:
    """The visible text of an answer, once it is whole."""
    return await browser.text(f"({SAID})[{number}]/div[1]")


async def barriers(browser: Browser) -> list[str]:
    """What axe finds, as the rule and where."""
    axe = files("axe_core_python").joinpath("axe.min.js").read_text()
    found = await browser.run(f"{axe}; return await axe.run(document, {{resultTypes: ['violations']}})")
    return [f"{each['id']}: {json.dumps([node['html'] for node in each['nodes']])}" for each in found["violations"]]


class Extras(InterfaceHook):
    """Answers with buttons, and with a file."""

    async def on_before_respond(self, message: InterfaceMessage, session: Any) -> None:
        if message.button is not None:
            self.pressed = message.button

    async def on_after_respond(
        self, message: Any, response: InterfaceResponse, session: Any
    ) -> InterfaceResponse | None:
        if response.content != "extras":
            return None
        rows = ((Button("Yes", "yes-1"), Button("No", "no-1")), (Button("Read", url="https://a.example/"),))
        note = Media(b"some text", media_type="text/plain", filename="note.txt")
        return InterfaceResponse("Shall I?", files=(note,), buttons=rows)


async def test_the_page(programs: tuple[str, str], tmp_path: Path) -> None:
    hook, interface = Extras(), web(title="Desk <b>")
    interface.add_hook(hook)
    with anyio.fail_after(110):
        async with served(Agent("offline"), interface) as service, browsing(programs, tmp_path) as browser:
            url = service.runtime.url
            await browser.open(f"{url}/chat")
            assert await browser.title() == await browser.text("//h1") == "Desk <b>"
            assert await browser.text("//div[@id='greeting']//strong") == "you"
            await connected(browser)
            await browser.run("document.querySelector('#text').focus()")
            await browser.press(*"hi there", ENTER)
            assert await answer(browser, 1) == "hi there"
            await the_page_harms_nobody(browser)
            await the_extras_work_by_keyboard(browser, hook)
            await browser.open(f"{url}/chat")
            assert await answer(browser, 1) == "hi there"
            assert await browser.run("return document.querySelector('#greeting') === null")
            await say(browser, LONG)
            await browser.text(f"({SAID})[last()]//table")
            assert await barriers(browser) == []
            await browser.prefer(prefers_color_scheme="dark", prefers_reduced_motion="reduce")
            await browser.resize(320, 568)
            assert await browser.run("return getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 28)"
            assert await browser.run("return document.documentElement.scrollWidth") <= 320
            assert await browser.run("return document.querySelector('#scroll').scrollWidth") <= 320
            assert await barriers(browser) == []
            assert [each for each in await browser.requested() if not each.startswith((f"{url}/", "blob:"))] == []
            assert await browser.complaints() == []


async def the_page_harms_nobody(browser: Browser) -> None:
    """What is said and answered is text, and made nothing but what Markdown is made of."""
    for text in HARM:
        await browser.run(
            "const {render} = await import(new URL('chat/markdown.js', location.href));"
            "const box = document.createElement('div');"
            "box.className = 'tried'; document.body.append(box); render(box, args[0]);",
            text,
        )
    made = await browser.run(
        "const all = [...document.querySelectorAll('.tried, .tried *')];"
        "return all.map(e => [e.tagName, e.href ?? '', e.getAttributeNames()])"
    )
    assert {tag for tag, _, _ in made} <= set(
        "DIV P H3 A CODE PRE FIGURE FIGCAPTION BUTTON TABLE TR TH TD BLOCKQUOTE UL LI".split()
    )
    assert all(href.startswith("https://") for tag, href, _ in made if tag == "A")
    allowed = {"class", "dir", "tabindex", "role", "aria-label", "scope", "type", "href", "target", "rel", "title"}
    assert {name for _, _, names in made for name in names} <= allowed
    shown = await browser.run("return [...document.querySelectorAll('.tried')].map(e => e.textContent)")
    for text, seen in zip(HARM, shown, strict=True):
        assert [word for word in text.split() if word.strip("`#>|-") and word.strip("`#>|-") not in seen] == [], text
    await browser.run(
        "const {render} = await import(new URL('chat/markdown.js', location.href));"
        "for (const text of args[0]) render(document.createElement('div'), text);",
        [piece * (30_000 // len(piece)) for piece in ENDLESS],
    )  # its patience ends long before that of quadratic time
    for text in HARM[:3]:
        await say(browser, text)
    assert [await answer(browser, number) for number in (2, 3, 4)] == HARM[:3]
    assert (
        await browser.run("document.querySelectorAll('.tried').forEach(e => e.remove()); return window.harmed") is None
    )


async def the_extras_work_by_keyboard(browser: Browser, hook: Extras) -> None:
    await say(browser, "extras")
    assert await browser.text("//button[. = 'Yes']") == "Yes"
    assert await browser.text("//a[. = 'Read']") == "Read"
    await browser.run("document.querySelector('#scroll').focus()")
    for _ in range(20):
        await browser.press(TAB)
        if await browser.run("return document.activeElement.textContent") == "Yes":
            break
    await browser.press(ENTER)
    await browser.text("(//ol[@id='log']/li[contains(@class, 'user')])[last()][contains(., 'Yes')]")
    await browser.text(f"({SAID})[last()][contains(., 'Yes') and not(contains(., 'Shall'))]")
    assert hook.pressed == "yes-1"
    assert await browser.run("return document.activeElement.id") == "text"
    assert (
        await browser.run(
            "const all = [...document.querySelectorAll('button')].map(b => b.textContent);"
            "return all.find(text => text.startsWith('Download note.txt'))"
        )
        == "Download note.txt (9 B)"
    )


KEY = "a-long-random-key"


@asynccontextmanager
async def other_sites() -> AsyncGenerator[tuple[Served, dict[str, str]]]:
    """A server of other sites' pages, and the widget's URL for each path, to be filled in."""
    agent, widgets = Agent("offline"), dict[str, str]()

    async def page() -> str:
        return (
            '<!doctype html><html lang="en"><title>a shop</title><link rel="icon" href="data:,">'
            '<meta name="viewport" content="width=device-width">'
            f"<main><h1>A shop</h1></main>{widgets[request.path]}"
        )

    for path in ("/", "/keyed"):
        agent.blueprint.add_url_rule(path, path, page)
    async with served(agent, allowed_hosts=[SHOP, EVIL]) as service:
        yield service, widgets


async def test_the_widget_in_another_sites_page(programs: tuple[str, str], tmp_path: Path) -> None:
    agent = Agent("offline", auth=APIKeyAuth(KEY))
    with anyio.fail_after(110):
        async with other_sites() as (sites, widgets), browsing(programs, tmp_path, (SHOP, EVIL)) as browser:
            port = sites.client.base_url.port
            origins = [f"http://{SHOP}:{port}"]
            keyed = web(path="/keyed", platform="keyed", allowed_origins=origins)
            async with served(agent, web(auth=False, allowed_origins=origins), keyed) as service:
                url = service.runtime.url
                widgets["/"] = f'<script src="{url}/chat/widget.js" defer data-title="Ask us"></script>'
                widgets["/keyed"] = f'<script src="{url}/keyed/widget.js" defer data-token="{KEY}"></script>'
                await a_visitor_of_the_shop_asks(browser, f"http://{SHOP}:{port}/")
                await browser.open(f"http://{SHOP}:{port}/keyed")
                await browser.press(TAB, ENTER)
                await browser.enter_frame("//iframe")
                await say(browser, "with a key")
                assert await answer(browser, 1) == "with a key"
                await browser.complaints()
                await browser.open(f"http://{EVIL}:{port}/")
                await browser.click("//button[. = 'Ask us']")
                await browser.enter_frame("//iframe")
                assert await browser.run("return document.querySelector('#text') === null")
                await browser.enter_frame(None)
                assert [each for each in await browser.complaints() if "frame-ancestors" in each]
                await somebody_with_a_key_signs_in(browser, f"{url}/keyed")


async def a_visitor_of_the_shop_asks(browser: Browser, shop: str) -> None:
    await browser.open(shop)
    await browser.click("//button[. = 'Ask us']")
    await browser.enter_frame("//iframe[@title='Ask us']")
    await connected(browser)
    await browser.run("document.querySelector('#text').focus()")
    await browser.press(*"hi", ENTER)
    assert await answer(browser, 1) == "hi"
    assert await browser.run("return document.cookie") == ""
    await browser.press(ESCAPE)
    await browser.enter_frame(None)
    assert await browser.run("return document.activeElement.textContent") == "Ask us"
    assert await barriers(browser) == []
    await browser.open(shop)
    await browser.press(TAB, ENTER)
    await browser.enter_frame("//iframe[@title='Ask us']")
    assert await answer(browser, 1) == "hi"
    assert await browser.complaints() == []


async def somebody_with_a_key_signs_in(browser: Browser, page: str) -> None:
    await browser.open(page)
    await browser.type("//input[@id='token']", "another key")
    await browser.press(ENTER)
    assert await browser.text("//p[@id='status'][contains(., 'not accepted')]")
    assert await barriers(browser) == []
    await browser.type("//input[@id='token']", KEY)
    await browser.press(ENTER)
    assert await answer(browser, 1) == "with a key"
