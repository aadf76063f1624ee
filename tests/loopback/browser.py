"""A headless Chromium, driven through chromedriver by the W3C WebDriver protocol (https://www.w3.org/TR/webdriver2/).

Plain HTTP, so that it works the same on both backends. It reaches nothing but 127.0.0.1: names lead there, or nowhere.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import anyio
import httpx2
from anyio.abc import ByteReceiveStream
from anyio.streams.text import TextReceiveStream

FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--disable-quic", "--disable-sync", "--disable-background-networking", "--disable-component-update"),
]

PATIENCE_MS = 15_000
"""Milliseconds that an element may take to appear."""

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""The key of an element's id (WebDriver, section 12.1)."""


class BrowserMissing(Exception):
    """There is no Chromium, or no driver for it, on PATH."""


def find() -> tuple[str, str]:
    """The browser and its driver.

    Raises:
        BrowserMissing: One of them is not on PATH.
    """
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        raise BrowserMissing("chromium and chromedriver are not on PATH: apt-get install chromium chromium-driver")
    return browser, driver


@dataclass(frozen=True)
class Browser:
    """One window."""

    driver: httpx2.AsyncClient

    async def open(self, url: str) -> None:
        """Go to a page, and wait until it has loaded."""
        await self._post("url", url=url)

    async def run(self, script: str, *arguments: Any) -> Any:
        """What the body of an async JavaScript function returns in the page."""
        wrapped = f"const done = arguments[arguments.length - 1]; (async (...args) => {{ {script} }})(...arguments)"
        finished = f"{wrapped}.then(value => done({{value}}), error => done({{error: String(error)}}))"
        result = await self._post("execute/async", script=finished, args=list(arguments))
        if "error" in result:
            raise RuntimeError(f"the page's script failed: {result['error']}")
        return result.get("value")

    async def title(self) -> str:
        """The page's title."""
        return value_of(await self.driver.get("title"))

    async def click(self, xpath: str) -> None:
        """Click an element as soon as it is there."""
        await self._post(f"{await self._element(xpath)}/click")

    async def type(self, xpath: str, text: str) -> None:
        """Write into a field, in place of what it holds."""
        element = await self._element(xpath)
        await self._post(f"{element}/clear")
        await self._post(f"{element}/value", text=text)

    async def text(self, xpath: str) -> str:
        """An element's visible text, as soon as it is there."""
        return value_of(await self.driver.get(f"{await self._element(xpath)}/text"))

    async def press(self, *keys: str) -> None:
        """Press keys one after another, wherever the focus is; special ones are those of WebDriver, section 17.4.2."""
        steps = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        await self._post("actions", actions=[{"type": "key", "id": "keyboard", "actions": steps}])

    async def enter_frame(self, xpath: str | None) -> None:
        """Have what follows happen in a frame of the page; None for the page itself."""
        id = None if xpath is None else {ELEMENT: (await self._element(xpath)).removeprefix("element/")}
        await self._post("frame", id=id)

    async def resize(self, width: int, height: int) -> None:
        """Give the page another size, in CSS pixels; smaller than a window can be, too."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": True}
        await self._post("goog/cdp/execute", cmd="Emulation.setDeviceMetricsOverride", params=metrics)

    async def prefer(self, **features: str) -> None:
        """Have the user prefer something, by the names of media features: `prefers_color_scheme="dark"`."""
        wanted = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        await self._post("goog/cdp/execute", cmd="Emulation.setEmulatedMedia", params={"features": wanted})

    async def requested(self) -> list[str]:
        """The URLs that web pages (not the browser's own) have asked for since the last call, whatever for."""
        events = [json.loads(entry["message"])["message"] for entry in await self._log("performance")]
        sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
        return [each["request"]["url"] for each in sent if each["documentURL"].startswith("http")]

    async def complaints(self) -> list[str]:
        """What the console has said since the last call: failures, and breaches of the page's policy."""
        return [entry["message"] for entry in await self._log("browser")]

    async def _element(self, xpath: str) -> str:
        found = await self._post("element", using="xpath", value=xpath)
        return f"element/{found[ELEMENT]}"

    async def _log(self, kind: str) -> list[dict[str, Any]]:
        return await self._post("se/log", type=kind)

    async def _post(self, command: str, **parameters: Any) -> Any:
        return value_of(await self.driver.post(command, json=parameters))


@asynccontextmanager
async def browsing(programs: tuple[str, str], profile: Path, names: tuple[str, ...] = ()) -> AsyncGenerator[Browser]:
    """A browser with an empty profile, while the context is open.

    Args:
        programs: The browser and its driver.
        profile: An empty directory.
        names: Host names that lead to 127.0.0.1; no other leads anywhere.
    """
    browser, driver = programs
    here = "".join(f"MAP {name} 127.0.0.1, " for name in names)
    resolver = f"--host-resolver-rules={here}MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    capabilities = {
        "browserName": "chrome",
        "timeouts": {"implicit": PATIENCE_MS, "script": PATIENCE_MS},
        "goog:chromeOptions": {"binary": browser, "args": [*FLAGS, resolver, f"--user-data-dir={profile}"]},
        "goog:loggingPrefs": {"performance": "ALL", "browser": "ALL"},
    }
    async with driving(driver) as url, httpx2.AsyncClient(timeout=60, trust_env=False, verify=False) as client:
        made = value_of(await client.post(url, json={"capabilities": {"alwaysMatch": capabilities}}))
        session = f"{url}/{made['sessionId']}"
        client.base_url = session
        try:
            yield Browser(client)
        finally:
            with anyio.CancelScope(shield=True, deadline=anyio.current_time() + 10):  # or Chromium outlives us
                value_of(await client.delete(session))


@asynccontextmanager
async def driving(driver: str) -> AsyncGenerator[str]:
    """chromedriver, while the context is open; gives the URL of its sessions."""
    async with await anyio.open_process([driver, "--port=0"], stderr=DEVNULL) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{await port_of(process.stdout)}/session"
        finally:
            process.terminate()


async def port_of(stdout: ByteReceiveStream) -> int:
    """The port that chromedriver says it listens on."""
    said = ""
    async for text in TextReceiveStream(stdout):
        said += text
        _, found, rest = said.partition("successfully on port ")
        if found and "." in rest:
            return int(rest.partition(".")[0])
    raise RuntimeError(f"chromedriver did not start: {said}")


def value_of(response: httpx2.Response) -> Any:
    """What a command answered."""
    value = response.json()["value"]
    if response.is_error:
        raise RuntimeError(f"{value['error']}: {value['message']}")
    return value
