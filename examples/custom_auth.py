"""A provider of your own: any object with `authenticate`, sync or async; what it says of a caller reaches the run.

    python examples/custom_auth.py
    curl http://127.0.0.1:8000/run -H 'Authorization: Bearer ann-token' \\
        -H 'Content-Type: application/json' -d '{"input": "hello"}'
"""

import hmac
import os

from definable.agent import Agent, RunContext
from definable.agent.auth import AuthContext, AuthRequest

TOKENS = {"ann-token": ("ann", "free"), "bob-token": ("bob", "paid")}


class Tokens:
    """Knows who a bearer token belongs to; what it raises denies, and is logged."""

    platforms = frozenset({"http"})

    async def authenticate(self, request: AuthRequest) -> AuthContext | None:
        scheme, _, token = (request.header("Authorization") or "").partition(" ")
        for known, (user, plan) in TOKENS.items():
            if scheme == "Bearer" and hmac.compare_digest(known.encode(), token.encode()):
                return AuthContext(user_id=user, metadata={"plan": plan})
        return None


def instructions(context: RunContext) -> str:
    # What the provider says. `context.metadata` is what the client wrote in its JSON, and proves nothing.
    plan = "no plan" if context.auth is None else f"the {context.auth.metadata['plan']} plan"
    return f"You help {context.user_id}, who has {plan}."


agent = Agent("offline", name="guarded", instructions=instructions, auth=Tokens())

if __name__ == "__main__":
    agent.serve(host="127.0.0.1", port=int(os.environ.get("PORT", "8000")), enable_server=True)
