"""A real Redis for what needs one."""

from loopback.redis import has_redis, own_redis, redis, shared_redis

__all__ = ["has_redis", "own_redis", "redis", "shared_redis"]
