"""The questions by name, in the order in which `python -m benchmarks` asks them."""

from __future__ import annotations

from .question import Question
from .questions import (
    agent_construction,
    agent_run,
    attacks,
    bare_function,
    bus,
    bus_redis,
    concurrent_runs,
    cron,
    emit,
    idle,
    idle_connections,
    import_time,
    limiter,
    matching,
    run,
    session_length,
    slow_runs,
    start,
    stop,
    stream,
    webhook,
    webhook_key,
)

QUESTIONS: dict[str, Question] = {
    question.name: question
    for question in (
        webhook.QUESTION,
        webhook_key.QUESTION,
        limiter.QUESTION,
        bare_function.QUESTION,
        *bare_function.WEBHOOK_OVER_BARE,
        run.QUESTION,
        run.STREAMED,
        slow_runs.QUESTION,
        cron.QUESTION,
        emit.QUESTION,
        *matching.MATCHING,
        bus.QUESTION,
        bus_redis.QUESTION,
        bus_redis.JOBS,
        bus_redis.FAR,
        agent_run.QUESTION,
        session_length.QUESTION,
        agent_construction.QUESTION,
        concurrent_runs.QUESTION,
        stream.QUESTION,
        import_time.QUESTION,
        start.QUESTION,
        idle.QUESTION,
        idle_connections.QUESTION,
        attacks.QUESTION,
        stop.QUESTION,
    )
}
