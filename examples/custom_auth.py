"""An auth provider of your own: any object with `authenticate`, sync or async.

    python examples/custom_auth.py
    curl http://127.0.0.1:8000/run -H 'Authorization: Bearer ann-token' \\
        -H 'Content-Type: application/json' -d '{"input": "hello"}'
"""

import hmac
import os

from definable.agent import Agent, RunContext
from definable.agent.auth import AuthContext, AuthRequest

TOKENS = {"ann-token": "ann", "bob-token": "bob"}


class Tokens:
    """Knows who a bearer token belongs to; what it raises denies, and is logged."""

    async def authenticate(self, request: AuthRequest) -> AuthContext | None:
        scheme, _, token = (request.header("Authorization") or "").partition(" ")
        for known, user in TOKENS.items():
            if scheme == "Bearer" and hmac.compare_digest(known.encode(), token.encode()):
                return AuthContext(user_id=user, metadata={"plan": "free"})
        return None


def instructions(context: RunContext) -> str:
    return f"You help {context.user_id}."


agent = Agent("offline", name="guarded", instructions=instructions, auth=Tokens())

if __name__ == "__main__":
    agent.serve(host="127.0.0.1", port=int(os.environ.get("PORT", "8000")), enable_server=True)
