"""One file a question: each holds a `QUESTION`, and how it is measured."""

__all__: list[str] = []
