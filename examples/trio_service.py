"""The agent as a child of a trio program of your own: it starts, serves and stops with the nursery around it.

    python examples/trio_service.py

`anyio.create_task_group()` and asyncio do as well: `aserve` runs on whatever event loop it is called on.
"""

from functools import partial

import trio

from definable.agent import Agent, RunOutput
from definable.agent.trigger import EventTrigger, TriggerEvent

agent = Agent("offline", name="child")


@agent.on(EventTrigger("tick"))
async def on_tick(event: TriggerEvent) -> str:
    return f"tick {event.body['number']}"


async def tick() -> None:
    for number in range(3):
        await agent.aemit("tick", {"number": number})
        await trio.sleep(0.1)


@agent.after_response
def show(output: RunOutput) -> None:
    print(output.content)


async def main() -> None:
    async with trio.open_nursery() as nursery:
        url = await nursery.start(partial(agent.aserve, host="127.0.0.1", port=0, enable_server=True))
        print(f"ready at {url}")
        await tick()
        assert agent.runtime is not None
        agent.runtime.stop()


if __name__ == "__main__":
    trio.run(main)
