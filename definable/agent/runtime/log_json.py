"""Log lines for machines: one JSON object a record."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any

from definable.agent.error_text import error_message

IDS = ("run_id", "session_id", "trigger_id")

STANDARD = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", *IDS})
"""What every record has; the rest was given as `extra=`."""


class JSONFormatter(logging.Formatter):
    """`{"time": ..., "level": ..., "logger": ..., "message": ..., "run_id": ...}`, and what was given as `extra=`.

    The time is UTC (RFC 3339). Ids are there when the record has them, `exception` with its traceback when it logs one.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record's line; ASCII, so that nothing logged can end it."""
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields |= {name: value for name in IDS if (value := getattr(record, name, ""))}
        if record.exc_info and record.exc_info[1] is not None:
            kind = type(record.exc_info[1])
            fields["exception"] = {
                "type": f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins."),
                "message": error_message(record.exc_info[1]),
                "traceback": self.formatException(record.exc_info),
            }
        fields |= {name: value for name, value in vars(record).items() if name not in STANDARD and name not in fields}
        return json.dumps(fields, default=repr)
