"""Anthropic's Messages API; `model.py` is the way in, and the SDK (extra `anthropic`) loads when a model is first used.

```
request.py    ModelRequest -> the arguments of messages.create
stream.py     one answer, retried and explained, and what it adds up to
```
"""

from .model import Claude

__all__ = ["Claude"]
