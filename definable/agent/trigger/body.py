"""A body of one's own: what a handler does to its event's body is seen by no other handler, and by no later attempt.

`runtime/workers.py` and `runtime/dispatch.py` make one where several handlings share the data. Pure.
"""

from __future__ import annotations

from typing import Any

CONTAINERS = (dict, list)
"""What JSON is made of; of anything else that an event in memory may hold there is but one."""


def own_body(body: Any) -> Any:
    """A copy of a body's dicts and lists, at whatever depth; of one that holds itself, of the outermost alone."""
    try:
        return _copied(body)
    except RecursionError:
        return body.copy()


def _copied(value: Any) -> Any:
    kind = value.__class__
    if kind is dict:
        return {key: _copied(each) if type(each) in CONTAINERS else each for key, each in value.items()}
    if kind is list:
        return [_copied(each) if type(each) in CONTAINERS else each for each in value]
    return value
