"""`examples/slack_app.py` as a process, against the loopback Slack."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import anyio
import pytest
from loopback.slack import SlackServer

pytestmark = pytest.mark.anyio

EXAMPLE = Path(__file__).parents[4] / "examples" / "slack_app.py"


async def test_lunch_is_offered_and_chosen() -> None:
    async with SlackServer().running() as server:
        tokens = {
            "SLACK_BOT_TOKEN": server.bot_token,
            "SLACK_APP_TOKEN": server.app_token,
            "SLACK_BASE_URL": server.url,
        }
        command = [sys.executable, "-W", "error", str(EXAMPLE)]
        with anyio.fail_after(50):
            async with await anyio.open_process(
                command, env={**os.environ, **tokens}, stdout=None, stderr=None
            ) as process:
                await server.until(lambda: server.on_line)
                await server.say("D1", "What is for lunch?")
                await server.until(lambda: server.own("D1"))
                await server.press("D1", server.own("D1")[0]["ts"], 1)
                await server.until(lambda: len(server.own("D1")) == 2)
                process.send_signal(signal.SIGINT)
                assert await process.wait() == 0
        assert server.shown("D1") == ["What is for lunch?", "You chose soup."]
        assert server.violations == [] and server.lost == []
