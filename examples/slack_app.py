"""A Slack app over Socket Mode, with buttons under its answers.

    SLACK_BOT_TOKEN=xoxb-... SLACK_APP_TOKEN=xapp-... python examples/slack_app.py

docs/slack.md shows how to make the app. It needs no other key: it runs on the offline model, which echoes. Write to it
directly, or mention it in a channel to which it was invited; ask it for lunch, and press a button.
"""

import os
from dataclasses import replace

from definable.agent import Agent
from definable.agent.interface import (
    Button,
    InterfaceHook,
    InterfaceMessage,
    InterfaceResponse,
    InterfaceSession,
    SlackInterface,
)

agent = Agent("offline", name="lunch")


class Menu(InterfaceHook):
    """Offers what there is to whoever speaks of lunch."""

    def on_before_respond(self, message: InterfaceMessage, session: InterfaceSession) -> InterfaceMessage | None:
        if message.button is not None:
            return replace(message, text=f"You chose **{message.button}**.")
        return None

    def on_after_respond(
        self, message: InterfaceMessage, response: InterfaceResponse, session: InterfaceSession
    ) -> InterfaceResponse | None:
        if message.button is not None or "lunch" not in (message.text or "").lower():
            return None
        return replace(response, buttons=((Button("🍕 Pizza", "pizza"), Button("🍲 Soup", "soup")),))


if __name__ == "__main__":
    slack = SlackInterface(
        bot_token=os.environ["SLACK_BOT_TOKEN"],
        app_token=os.environ["SLACK_APP_TOKEN"],
        base_url=os.environ.get("SLACK_BASE_URL", "https://slack.com/api/"),
        hooks=[Menu()],
    )
    agent.serve(slack, enable_server=False)
