"""Events from anywhere in the program: kept in a file until they are handled, and kept apart when they fail for good.

    python examples/events.py

What was accepted when the process is killed (kill -9) is handled after the next start.
"""

import sys
from pathlib import Path

import anyio
import anyio.to_thread

from definable.agent import Agent
from definable.agent.bus import SQLiteBus
from definable.agent.trigger import EventTrigger, TriggerEvent

agent = Agent("offline", name="events", bus=SQLiteBus(Path(sys.argv[1] if len(sys.argv) > 1 else "events.db")))


@agent.on(EventTrigger("order.*", max_concurrency=5, timeout=30, retries=3))
async def on_order(event: TriggerEvent) -> None:
    output = await agent.arun(f"Thank for order {event.body['id']}", session_id=f"customer {event.body['customer']}")
    print(f"{event.source}: {output.content}")


@agent.on(EventTrigger("order.paid"))
def invoice(event: TriggerEvent) -> None:  # a sync handler runs in a worker thread
    if event.body["id"] == 3:
        raise ConnectionError("the printer is on fire")


def sell(number: int) -> None:
    agent.emit("order.paid", {"id": number, "customer": "Ann"})  # from a thread: never blocks


async def main() -> None:
    async with agent.running() as runtime:
        await agent.aemit("order.placed", {"id": 1, "customer": "Bob"})  # returns once it is in the file
        for number in (2, 3):
            await anyio.to_thread.run_sync(sell, number)
        await runtime.bus.drain()
        for letter in await runtime.bus.dead_letters():
            print(f"dead letter {letter.data['body']}: {letter.why}")
    print(runtime.report)


if __name__ == "__main__":
    anyio.run(main)
