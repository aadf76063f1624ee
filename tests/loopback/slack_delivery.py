"""How Slack delivers events, buttons and commands: over sockets or HTTP, and again where they are not acknowledged.

Sources: https://docs.slack.dev/apis/events-api#retries, https://docs.slack.dev/apis/events-api/using-socket-mode
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import math
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import anyio
import httpx2

if TYPE_CHECKING:
    from .slack import SlackServer


class Deliveries:
    """Delivers payloads."""

    def __init__(self, server: SlackServer) -> None:
        self._server = server
        self._numbers = itertools.count(1)

    async def deliver(self, kind: str, payload: dict[str, Any]) -> None:
        """Deliver a payload; what is not acknowledged at last is lost."""
        reason = ""
        for attempt, delay in enumerate((0.0, *self._server.retry_delays)):
            await anyio.sleep(delay)
            if self._server.events_url is None:
                acknowledged, reason = await self._by_socket(kind, payload, attempt, reason)
            else:
                acknowledged, reason = await self._by_http(kind, payload, attempt, reason)
            if acknowledged:
                return
            if kind != "events_api" and self._server.events_url is not None:
                break  # only events are sent again
        self._server.lost.append(payload)

    async def _by_socket(self, kind: str, payload: Any, attempt: int, reason: str) -> tuple[bool, str]:
        await self._server.until(lambda: any(each.is_ready for each in self._server.connections))
        ready = [each for each in self._server.connections if each.is_ready]
        number = next(self._numbers)
        envelope = {"envelope_id": f"envelope-{number}", "type": kind, "payload": payload}
        envelope["accepts_response_payload"] = kind != "events_api"
        if kind == "events_api":
            envelope |= {"retry_attempt": attempt, "retry_reason": reason}
        acknowledged = await ready[number % len(ready)].deliver(envelope, self._server.within)
        if not acknowledged:
            self._server.late.add(envelope["envelope_id"])
        return acknowledged, "timeout"

    async def _by_http(self, kind: str, payload: Any, attempt: int, reason: str) -> tuple[bool, str]:
        if kind == "events_api":
            body, media_type = json.dumps(payload).encode(), "application/json"
        else:
            fields = {"payload": json.dumps(payload)} if kind == "interactive" else payload
            body, media_type = urlencode(fields).encode(), "application/x-www-form-urlencoded"
        headers = signed(body, self._server.signing_secret) | {"Content-Type": media_type}
        if attempt:
            headers |= {"X-Slack-Retry-Num": str(attempt), "X-Slack-Retry-Reason": reason}
        try:
            async with httpx2.AsyncClient(timeout=self._server.within) as client:
                response = await client.post(self._server.events_url or "", content=body, headers=headers)
        except httpx2.TimeoutException:
            return False, "http_timeout"
        except httpx2.HTTPError:
            return False, "connection_failed"
        self._server.responses.append((response.status_code, response.text))
        self._server.note_change()
        return response.is_success, "http_error"


def signed(body: bytes, secret: str, at: float | None = None) -> dict[str, str]:
    """The headers of a request of the Events API."""
    moment = str(math.floor(time.time() if at is None else at))
    mac = hmac.new(secret.encode(), b"v0:" + moment.encode() + b":" + body, hashlib.sha256)
    return {"X-Slack-Request-Timestamp": moment, "X-Slack-Signature": f"v0={mac.hexdigest()}"}
