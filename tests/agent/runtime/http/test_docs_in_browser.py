"""`/docs` in a real browser: it loads nothing from elsewhere, and what is tried out is answered."""

from __future__ import annotations

import json
import os
from pathlib import Path

import anyio
import pytest
from loopback.browser import Browser, BrowserMissing, browsing, find

from definable.agent import Agent
from definable.agent.auth import APIKeyAuth
from definable.testing import served

pytestmark = pytest.mark.anyio

RUN = "//*[@id='operations-runs-run']"
ANSWER = f"{RUN}//*[contains(@class, 'live-responses-table')]//*[contains(@class, 'response-col_description')]//code"
STATUS = f"{RUN}//*[contains(@class, 'live-responses-table')]//tbody//td[contains(@class, 'response-col_status')]"


@pytest.fixture(scope="module")
def programs() -> tuple[str, str]:
    try:
        return find()
    except BrowserMissing as missing:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(missing))


async def try_out(browser: Browser, text: str) -> tuple[str, str]:
    """Send a run from the page; the status and the body that it shows."""
    await browser.click(f"{RUN}//button[contains(@class, 'opblock-summary-control')]")
    await browser.click(f"{RUN}//button[contains(@class, 'try-out__btn')]")
    await browser.type(f"{RUN}//textarea[contains(@class, 'body-param__text')]", json.dumps({"input": text}))
    await browser.click(f"{RUN}//button[contains(@class, 'execute')]")
    return await browser.text(STATUS), await browser.text(ANSWER)


async def test_a_run_that_is_tried_out_is_answered(programs: tuple[str, str], tmp_path: Path) -> None:
    agent = Agent("offline", name="Weather <Desk>")
    with anyio.fail_after(50):
        async with served(agent, dev=True) as service, browsing(programs, tmp_path) as browser:
            assert service.runtime.url is not None
            await browser.open(f"{service.runtime.url}/docs")
            status, answer = await try_out(browser, "what does the fox say")
            title, requested, complaints = await browser.title(), await browser.requested(), await browser.complaints()
    assert title == "Weather <Desk>"
    assert status == "200"
    assert json.loads(answer)["content"] == "what does the fox say"
    assert {f"{service.runtime.url}{path}" for path in ("/docs", "/openapi.json", "/run")} <= set(requested)
    assert [url for url in requested if not url.startswith((f"{service.runtime.url}/", "data:"))] == []
    assert complaints == []


async def test_credentials_are_asked_for_and_sent(programs: tuple[str, str], tmp_path: Path) -> None:
    agent = Agent("offline", auth=APIKeyAuth("a-long-random-key"))
    with anyio.fail_after(50):
        async with served(agent, dev=True) as service, browsing(programs, tmp_path) as browser:
            await browser.open(f"{service.runtime.url}/docs")
            await browser.click("//button[contains(@class, 'authorize') and contains(@class, 'btn')]")
            await browser.type("//*[contains(@class, 'modal-ux')]//input", "a-long-random-key")
            await browser.click("//*[contains(@class, 'modal-ux')]//button[@type='submit']")
            await browser.click("//*[contains(@class, 'modal-ux')]//button[contains(@class, 'btn-done')]")
            status, answer = await try_out(browser, "hello")
    assert (status, json.loads(answer)["content"]) == ("200", "hello")
