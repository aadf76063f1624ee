"""Everything at once: an HTTP API behind a key, hooks, a webhook, a cron job, an event and a chat over TCP.

    python examples/everything.py
    curl http://127.0.0.1:8000/run -H 'X-API-Key: secret' -H 'Content-Type: application/json' -d '{"input": "hello"}'
    nc 127.0.0.1 4000

Needs no key of a provider: it runs on the offline model, which echoes.
"""

import logging
import os

from custom_interface import LineChat

from definable.agent import Agent, RunContext, RunOutput
from definable.agent.auth import APIKeyAuth
from definable.agent.trigger import Cron, EventTrigger, TriggerEvent, Webhook

logger = logging.getLogger("everything")

agent = Agent("offline", name="everything", auth=APIKeyAuth(keys={os.environ.get("API_KEY", "secret")}))


@agent.before_request
def note(context: RunContext) -> None:
    context.session_state["runs"] = context.session_state.get("runs", 0) + 1


@agent.after_response
async def log(output: RunOutput) -> None:
    logger.info("%s said %r in %.3f s", output.model, output.content, output.duration)


@agent.on_error
def alarm(context: RunContext, error: Exception) -> None:
    logger.error("a run for %s failed: %s", context.user_id, error)


@agent.on(Webhook("/signup"))
async def on_signup(event: TriggerEvent) -> dict[str, str]:
    agent.emit("user.signup", event.body)
    return {"input": f"Welcome {event.body['name']}", "session_id": f"user {event.body['name']}"}


@agent.on(EventTrigger("user.*"))
async def on_user(event: TriggerEvent) -> None:
    print(f"{event.source}: {event.body}")


@agent.on(Cron("@hourly", timezone="Europe/Oslo"))
async def every_hour(event: TriggerEvent) -> str:
    return "Clean up."


if __name__ == "__main__":
    chat = LineChat(int(os.environ.get("CHAT_PORT", "4000")))
    chat.auth = False  # whoever reaches the port may chat
    agent.serve(chat, host="127.0.0.1", port=int(os.environ.get("PORT", "8000")))
