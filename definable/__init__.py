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

The rooms, and the direction of imports (left never imports right):

`errors, frozen, half_read_body -> model -> agent.(run_context, run_output, tool, session, bus, auth, trigger, hook) ->
agent.run_loop -> agent.agent -> agent.interface -> agent.runtime -> cli`

- `definable.model`: the `Model` protocol, messages, `OpenAIChat`, `OfflineModel`.
- `definable.agent`: `Agent`, what a run is, tools; below it `trigger`, `auth`, `bus`, `session`, `interface` and
  `runtime` (the one task group: start, drain, report).
- `definable.testing`: virtual time for both backends, a served agent as a context.
- `definable.cli`: the `definable` command.
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
