"""The agent's own endpoints, one file a resource; `routes.py` lists them.

An endpoint takes what it may use (`EndpointContext`) and a `Request`, and gives something to send, or raises what
`response.problem_of` turns into a problem. `app.py` has authenticated its caller by then.
"""

__all__: list[str] = []
