"""The agent mounted in a Starlette (or FastAPI) application of your own, served by any ASGI server.

    pip install starlette uvicorn
    uvicorn --app-dir examples mounted:app
    curl http://127.0.0.1:8000/agent/run -H 'Content-Type: application/json' -d '{"input": "hello"}'

It is open to whoever reaches the server: uvicorn listens on 127.0.0.1 unless it is told otherwise. Give the agent an
`auth=` before it listens elsewhere.

With FastAPI: `app = FastAPI(lifespan=service.lifespan)` and `app.mount("/agent", service)`. The lifespan runs cron
jobs, events and interfaces; where the application has one of its own, enter `service.lifespan()` in it.
"""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from definable.agent import Agent
from definable.agent.trigger import Cron, TriggerEvent

agent = Agent("offline", name="mounted")


@agent.on(Cron("* * * * * *"))
async def every_second(event: TriggerEvent) -> None:
    print(f"{event.source} fired", flush=True)


async def home(request: Request) -> PlainTextResponse:
    return PlainTextResponse("The agent is at /agent/run.")


service = agent.asgi()
app = Starlette(routes=[Route("/", home), Mount("/agent", service)], lifespan=service.lifespan)
