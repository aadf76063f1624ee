"""The echoing agent as a service, as each framework's users would serve it.

Each file is a script: `python -m benchmarks.served.<name> <port> <backend>` serves on the loopback until it is told to
stop.

```
line_up.py      who takes part
process.py      one of them as a child process
definable.py    us: HTTP, cron and events in one call
agno.py         AgentOS under uvicorn
pydantic_ai.py  a FastAPI route under uvicorn, with APScheduler for cron
fastapi.py      webhooks as one writes them with FastAPI, under uvicorn[standard]
webhooks.py     the same webhooks with us
slow.py         us, on a model that takes its time
bare.py         one ASGI function, under uvicorn, hypercorn and our own server
```
"""

__all__: list[str] = []
