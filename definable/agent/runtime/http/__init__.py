"""HTTP: the ASGI entry (`app`), the agent's endpoints, the Quart application for the rest, and the server beneath."""

from definable.server.problem import Problem, send_problem

__all__ = ["Problem", "send_problem"]
