"""The ids of the run behind a log record: a filter for any handler, ours or the program's own."""

from __future__ import annotations

import logging

from definable.agent.run_context import RunIds, current_ids, ids_of


class RunContextFilter(logging.Filter):
    """Puts `run_id`, `session_id` and `trigger_id` on every record; each is "" where there is none.

    To be added to handlers: a logger's filters see only what is logged to that very logger. Records of handlers, tools
    and hooks get the ids too, also those logged in worker threads, and so does the record of a failure that was logged
    after its run had ended. With a `QueueHandler` it belongs there, not on the handlers behind the queue.

    Example:
        >>> import logging
        >>> from definable.agent.runtime import RunContextFilter
        >>> handler = logging.StreamHandler()
        >>> handler.addFilter(RunContextFilter())
        >>> handler.setFormatter(logging.Formatter("%(levelname)s %(run_id)s %(message)s"))
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the ids; lets every record through."""
        ids = current_ids()
        if ids is None and record.exc_info and record.exc_info[1] is not None:
            ids = ids_of(record.exc_info[1])
        run_id, session_id, trigger_id = ids or NO_IDS
        for name, value in (("run_id", run_id), ("session_id", session_id), ("trigger_id", trigger_id)):
            if not hasattr(record, name):  # given by `extra=`
                setattr(record, name, value)
        return True


NO_IDS = RunIds()
