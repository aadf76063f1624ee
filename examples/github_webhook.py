"""A GitHub webhook: signed, answered at once, each delivery handled once, tried again when the agent fails.

    GITHUB_WEBHOOK_SECRET=... python examples/github_webhook.py

Needs no key of a provider: it runs on the offline model, which echoes. It prints a `curl` with a valid signature to try
it with. GitHub reaches it through a tunnel or a proxy, and so does everybody else: the signature guards the webhook, an
API key the rest.
"""

import hashlib
import hmac
import os
import secrets

from definable.agent import Agent, RunOutput
from definable.agent.auth import APIKeyAuth, GitHubSignature
from definable.agent.trigger import TriggerEvent, Webhook

SECRET = os.environ.get("GITHUB_WEBHOOK_SECRET") or secrets.token_urlsafe()

agent = Agent(
    "offline",
    name="github",
    instructions="You summarize what happens in our repositories.",
    auth=APIKeyAuth(os.environ.get("API_KEY") or secrets.token_urlsafe()),  # of /run, /runs and /sessions
)


@agent.on(
    Webhook(
        "/github/{repo}",
        auth=GitHubSignature(SECRET),
        respond="accept",  # GitHub hangs up after 10 seconds
        dedupe="X-GitHub-Delivery",
        retries=3,
    )
)
async def on_github(event: TriggerEvent) -> str | None:
    assert event.raw is not None
    if event.headers["X-GitHub-Event"] == "ping":
        return None
    return f"Summarize what happened in {event.raw.path_params['repo']}: {event.body}"


@agent.after_response
async def show(output: RunOutput) -> None:
    print(output.content)


if __name__ == "__main__":
    body = '{"action": "opened"}'
    signature = hmac.new(SECRET.encode(), body.encode(), hashlib.sha256).hexdigest()
    print(
        f"curl http://127.0.0.1:8000/github/definable -d '{body}' -H 'Content-Type: application/json' "
        f"-H 'X-GitHub-Event: issues' -H 'X-GitHub-Delivery: 1' -H 'X-Hub-Signature-256: sha256={signature}'"
    )
    agent.serve(host="127.0.0.1", port=int(os.environ.get("PORT", "8000")))
