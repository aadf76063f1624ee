"""The same few agents in every framework, each written as its own documentation would.

```
base.py         what each of the others provides, and the words that all agents say
line_up.py      who takes part
definable.py    us
agno.py
pydantic_ai.py
```

A framework's module is imported in its contender's process alone, so that none is needed to measure the others.
"""

__all__: list[str] = []
