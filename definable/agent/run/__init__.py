"""One run of an agent: its context, the loop of model and tools, its output, stream, hooks and spans.

It knows models, tools and sessions, neither triggers' sources nor HTTP nor chats; `Agent` and the runtime call it.
"""

__all__: list[str] = []
