"""OpenAI and every compatible server; `model.py` is the way in."""

from .model import OpenAIChat

__all__ = ["OpenAIChat"]
