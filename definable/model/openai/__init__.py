"""`OpenAIChat`: Chat Completions of OpenAI and of every compatible server.

`model` is what users construct; it loads `client` (the official SDK) when it is first asked. `request` and `response`
translate, `stream` reads server-sent events, `errors` names failures.
"""

from .model import OpenAIChat

__all__ = ["OpenAIChat"]
