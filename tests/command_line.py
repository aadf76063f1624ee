"""A program for the command line to work on, and what a command came to."""

from collections.abc import Callable
from dataclasses import dataclass

APP = """
from definable.agent import Agent
from definable.agent.trigger import Cron, EventTrigger, Webhook

agent = Agent("offline", name="app")


@agent.on(Webhook("/hello", auth=False))
async def on_hello(event):
    return "hi"


@agent.on(EventTrigger("user.*"))
def on_user(event):
    return None


@agent.on(Cron("0 9 * * *", timezone="Asia/Tokyo"))
async def every_morning(event):
    return None
"""


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended."""

    status: int
    out: str
    err: str


Run = Callable[..., Done]
