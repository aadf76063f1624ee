"""A real Redis and a real PostgreSQL for the stores that need one."""

from loopback.postgres import has_postgres, own_postgres, postgres, shared_postgres
from loopback.redis import has_redis, own_redis, redis, shared_redis

__all__ = [
    "has_postgres",
    "has_redis",
    "own_postgres",
    "own_redis",
    "postgres",
    "redis",
    "shared_postgres",
    "shared_redis",
]
