"""OpenAI and every compatible server; `model.py` is the way in."""

from .model import OpenAIChat
from .profiles import Profile

__all__ = ["OpenAIChat", "Profile"]
