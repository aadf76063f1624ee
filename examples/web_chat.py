"""A chat page with buttons, and a page of a shop that shows the same chat in a frame.

python examples/web_chat.py
open http://127.0.0.1:8000/chat and http://127.0.0.1:8000/shop
"""

import os

from definable.agent import Agent
from definable.agent.interface import Button, InterfaceHook, InterfaceMessage, InterfaceResponse, WebInterface

SHOP = """<!doctype html><html lang="en"><title>A shop</title><main><h1>A shop</h1></main>
<script src="chat/widget.js" defer data-title="Ask us"></script>"""


class Menu(InterfaceHook):
    """Offers what people ask for most, in place of an answer of the model."""

    async def on_after_respond(
        self, message: InterfaceMessage, response: InterfaceResponse, session: object
    ) -> InterfaceResponse | None:
        if message.text != "menu":
            return None
        return InterfaceResponse("What is it about?", buttons=((Button("An order"), Button("A return")),))


agent = Agent("offline", name="shop", instructions="You answer the customers of a shop.")
agent.add_interface(
    WebInterface(
        title="Our shop",
        greeting="Ask us anything, or write `menu`.",
        secret=os.environ.get("CHAT_SECRET", "for this example alone"),
        hooks=[Menu()],
    )
)


@agent.blueprint.get("/shop")
async def shop() -> str:
    return SHOP


if __name__ == "__main__":
    agent.serve(host="127.0.0.1", port=int(os.environ.get("PORT", "8000")))
