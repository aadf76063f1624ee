"""definable: an AI agent as a running service, whole on trio and whole on asyncio.

`Agent(...).serve()` starts, in one process and one anyio task group, an HTTP server, messaging interfaces, a cron
scheduler and an event bus. There is one way through, top to bottom, and nothing flows back up:

```
source                   carried as          through          decided by          done by
HTTP webhook ─┐
cron loop ────┤
emit() ───────┼─▶ TriggerEvent ──▶ event bus ──▶ dispatch ──▶ handler ──▶ Agent.arun ──▶ RunOutput
POST /run ────┘                                             (None: stop)
interface ────▶ InterfaceMessage ──▶ event bus ──▶ session ───────────▶ Agent.arun ──▶ InterfaceResponse
```

What is accepted now and done later (emitted events, cron firings, accepted webhooks) goes through the event bus; what a
caller waits for goes straight to dispatch. Both end in the same registry of active runs, which a drain waits for.

The rooms, from the ground up; each imports from those above it alone:

- `errors`, `concurrency`: the error tree; event loops, threads, calls of user code, backoff and clocks.
- `server`, `storage`, `model`: an ASGI server, files and Redis, models; none of them knows an agent.
- `agent.tools`, `agent.session`, `agent.bus`, `agent.auth`, `agent.trigger`: its parts.
- `agent.agent`: `Agent`, which configures, registers, runs and serves.
- `agent.interface`: chats, with a folder for each platform.
- `agent.runtime`: the one task group: start, dispatch, drain, report; `http` is the API, `dev` reloads.
- `testing`, `cli`: tests of one's own in virtual time; the `definable` command.

The one import back is `Agent.serve`, which loads the runtime when called. `docs/architecture.md` walks through it.
"""

from typing import TYPE_CHECKING

from .lazy_exports import GetAttribute, lazy_exports

if TYPE_CHECKING:
    from .agent import (
        Agent,
        RunEnded,
        RunStarted,
        TextDelta,
        ToolCallEnded,
        ToolCallStarted,
        tool,
    )
    from .agent.trigger import BaseTrigger, Cron, EventTrigger, Interval, OneShot, Reply, TriggerEvent, Webhook

__version__ = "0.1.0"

__all__ = [
    "Agent",
    "tool",
    "Webhook",
    "Cron",
    "Interval",
    "OneShot",
    "EventTrigger",
    "TriggerEvent",
    "BaseTrigger",
    "Reply",
    "RunStarted",
    "TextDelta",
    "ToolCallStarted",
    "ToolCallEnded",
    "RunEnded",
    "__version__",
]

_AGENT = ("Agent", "tool", "RunStarted", "TextDelta", "ToolCallStarted", "ToolCallEnded", "RunEnded")
_TRIGGERS = ("Webhook", "Cron", "Interval", "OneShot", "EventTrigger", "TriggerEvent", "BaseTrigger", "Reply")

__getattr__: GetAttribute = lazy_exports(
    __name__, {**dict.fromkeys(_AGENT, ".agent"), **dict.fromkeys(_TRIGGERS, ".agent.trigger")}
)
