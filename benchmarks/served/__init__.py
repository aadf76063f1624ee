"""The echoing agent as a service, as each framework's users would serve it.

Each file is a script: `python -m benchmarks.served.<name> <port> <backend>` serves on the loopback until it is told to
stop.

```
line_up.py      who takes part
process.py      one of them as a child process
definable.py    us: HTTP, cron and events in one call
agno.py         AgentOS under uvicorn
pydantic_ai.py  a FastAPI route under uvicorn, with APScheduler for cron
```
"""

__all__: list[str] = []
