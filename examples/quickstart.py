"""An agent with a webhook, a cron job and an event trigger, served by one call.

Without OPENAI_API_KEY it runs on the offline model, which echoes.
"""

import os

from definable.agent import Agent
from definable.agent.trigger import Cron, EventTrigger, TriggerEvent, Webhook

has_key = bool(os.environ.get("OPENAI_API_KEY"))
if not has_key:
    print("OPENAI_API_KEY is not set: the agent runs on the offline model, which echoes.")

agent = Agent(
    model="openai/gpt-4o-mini" if has_key else "offline",
    instructions="You summarize what happens in our repositories.",
    name="quickstart",
)


@agent.on(Webhook("/github"))
async def on_github(event: TriggerEvent) -> str:
    agent.emit("github.push", event.body)
    return f"Summarize this GitHub event: {event.body}"


@agent.on(EventTrigger("github.*"))
async def on_event(event: TriggerEvent) -> None:
    print(f"{event.source}: {event.body}")


@agent.on(Cron("* * * * *"))
async def every_minute(event: TriggerEvent) -> None:
    print(f"{event.source} fired")


if __name__ == "__main__":
    agent.serve(host="127.0.0.1", port=int(os.environ.get("PORT", "8000")))
