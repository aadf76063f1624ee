"""Language models: what the run loop asks, and who answers.

```
resolve.py    "openai/gpt-4o" or "offline" -> a Model
message.py    the Model protocol, and what travels: ModelRequest in, ModelReply or ModelDeltas out
openai/       OpenAIChat: Chat Completions of OpenAI and every compatible server (loads the SDK when first used)
anthropic/    Claude: Anthropic's Messages API (extra `anthropic`)
offline.py    OfflineModel: deterministic, without a network
fallback.py   FallbackModel: the next model answers where one cannot for now
function.py   FunctionModel: a function answers
adapters/     PydanticAIAgent, OpenAIAgentsAgent, LangChainRunnable: agents of other frameworks
```

What both providers' models need: `keys.py`; `loop_client.py` (a client for each event loop); and, loaded with the
client, `sdk_client.py` (an SDK's client of ours), `failure.py` (what failed, and whether it is tried again),
`reply_stream.py` (a streamed answer), `sse.py` (its events). Neither loads the SDK of the other.
"""

from .anthropic.model import Claude
from .fallback import FallbackModel
from .function import FunctionModel
from .message import (
    FinishReason,
    Image,
    Message,
    Model,
    ModelDelta,
    ModelProfile,
    ModelReply,
    ModelRequest,
    OutputMode,
    OutputSchema,
    ToolCall,
    ToolDefinition,
    Usage,
)
from .offline import OfflineModel
from .openai.model import OpenAIChat
from .resolve import resolve_model

__all__ = [
    "Model",
    "OpenAIChat",
    "Claude",
    "OfflineModel",
    "FallbackModel",
    "FunctionModel",
    "resolve_model",
    "Message",
    "Image",
    "ToolCall",
    "ToolDefinition",
    "OutputSchema",
    "ModelRequest",
    "ModelReply",
    "ModelDelta",
    "Usage",
    "FinishReason",
    "ModelProfile",
    "OutputMode",
]
