"""Agents of other frameworks as models: what serves, keeps and drains any agent's runs does the same for theirs.

Each module imports its framework when an agent of it is first asked; `foreign.py` has what they share.
"""

from .langchain import LangChainRunnable
from .openai_agents import OpenAIAgentsAgent
from .pydantic_ai import PydanticAIAgent

__all__ = ["PydanticAIAgent", "OpenAIAgentsAgent", "LangChainRunnable"]
