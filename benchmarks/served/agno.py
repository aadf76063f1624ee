"""agno's service: AgentOS under uvicorn."""

from __future__ import annotations

import sys

import uvicorn
from agno.agent import Agent
from agno.os import AgentOS

from benchmarks.frameworks.agno import InProcessModel


def main(port: str, _backend: str) -> None:
    agent = Agent(name="echo", model=InProcessModel(), telemetry=False)
    app = AgentOS(agents=[agent], telemetry=False).get_app()
    uvicorn.run(app, host="127.0.0.1", port=int(port), access_log=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
