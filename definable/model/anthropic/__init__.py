"""Anthropic's Messages API; `model.py` is the way in, and the SDK (extra `anthropic`) loads when a model is first used.

```
request.py    ModelRequest -> the arguments of messages.create
client.py     one event loop's client, and what its failures mean
answer.py     the events of a stream -> ModelReply
```
"""

from .model import Claude

__all__ = ["Claude"]
