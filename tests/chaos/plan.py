"""What one round of chaos does, drawn from one seed: the same seed makes the same plan."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass
from enum import StrEnum


class End(StrEnum):
    """How a life of the service ends."""

    DRAIN = "drain"
    """One signal, and time to finish."""
    CUT = "cut"
    """One signal, and less time than the work needs."""
    FORCE = "force"
    """A second signal while it drains."""
    HARD = "hard"
    """Three signals."""
    KILL = "kill"
    """SIGKILL."""
    INTERRUPT = "interrupt"
    """A handler raises KeyboardInterrupt."""


RAISED = ("panic", "panic group", "generator exit", "speechless", "wordless", "stray cancellation")

LEFT_OPEN = ("leave client", "leave generator", "leave scope", "leave failing group", "leave time-out")

MISTAKES = (*RAISED, *LEFT_OPEN, "fork")
"""What user code should not do, and the service survives."""

HARMLESS = ("fine", "fine", "fine", "nap", "raise", "raise group", "exit", "storm", "block", *MISTAKES)
"""What handlers do that ends by itself; each takes part as often as it is named."""

ENDLESS = ("hang", "swallow")
"""What handlers do until they are cut off."""

MODEL_FAULTS = ("none", "none", "none", "stall", "drop", "refuse", "flood", "exit", "mistake")

CHAT_FAULTS = ("receive", "accept", "send", "typing", "complete", "handled", "exit", "mistake", "none", "none")
"""Where the interface crashes."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A round: some lives of the service, each under load and faults, each with its end."""

    seed: int
    is_durable: bool
    """The bus is a SQLite file, else memory."""
    sessions: bool
    """Sessions are a SQLite file, else memory."""
    lives: tuple[tuple[End, float], ...]
    """How each ends, and after how many seconds under load."""
    workers: int
    """Deliveries that are handled at once."""
    buffer: int
    """Deliveries that may wait, in memory."""
    clock_steps: bool
    """The wall clock steps back and forth."""

    @classmethod
    def of(cls, seed: int) -> Plan:
        """The plan of a seed."""
        chance = random.Random(seed)
        is_durable = chance.random() < 0.6
        ends = [*End] if is_durable else [end for end in End if end is not End.KILL]
        lives = [(chance.choice(ends), chance.uniform(0.4, 2.0)) for _ in range(chance.choice((1, 1, 2)))]
        return cls(
            seed=seed,
            is_durable=is_durable,
            sessions=chance.random() < 0.7,
            lives=tuple(lives),
            workers=chance.choice((1, 5, 100)),
            buffer=chance.choice((20, 10_000)),
            clock_steps=chance.random() < 0.4,
        )

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        values = json.loads(text)
        values["lives"] = tuple((End(end), seconds) for end, seconds in values["lives"])
        return cls(**values)
