"""Cron jobs in time zones, without a server.

    python examples/cron_time_zone.py
    definable triggers examples/cron_time_zone.py

`30 2 * * *` fires once also on the days on which the clock skips or repeats 02:30, as Debian's cron does.
"""

from definable.agent import Agent
from definable.agent.trigger import Cron, TriggerEvent

agent = Agent("offline", name="cron")


@agent.on(Cron("30 2 * * *", timezone="Europe/Oslo", jitter=60, retries=2))
async def nightly(event: TriggerEvent) -> str:
    return "Write the report of the day."


@agent.on(Cron("0 9 * * mon-fri", timezone="America/New_York", overlap="queue", misfire_grace=3600))
async def every_workday(event: TriggerEvent) -> str:
    return "Write the plan for the day."


@agent.on(Cron("* * * * * */2"))  # the sixth field is that of the seconds
def every_other_second(event: TriggerEvent) -> None:
    print(f"{event.source} fired")


if __name__ == "__main__":
    agent.serve()
