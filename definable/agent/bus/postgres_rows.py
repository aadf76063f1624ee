"""The tables of the PostgreSQL bus, and its statements. Times are the server's, which all replicas share.

`now()` is the beginning of a transaction, and right where a time is reckoned from it: what is published is due so long
after its publisher asked. Where a statement may have waited for a lock, or comes behind one that did, what has expired
is decided by `clock_timestamp()`.

Names, reasons and keys for `cancel` are bytes: text of PostgreSQL has neither NUL nor halves of surrogate pairs.
"""

from __future__ import annotations

from typing import LiteralString

GROUPS_LOCK = 0x67727073
"""The first key of the advisory locks of groups: `grps` in ASCII."""

KINDS_OF_GROUPS = 256
"""Their second keys."""

MAX_DEAD_LETTERS = 10_000
"""Of a service's deliveries that died, so many of the last ones are kept."""

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS definable_event (
        position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        service text NOT NULL,
        id text NOT NULL,
        name bytea NOT NULL,
        data bytea NOT NULL,
        due_at timestamptz NOT NULL,
        key bytea,
        attempt integer NOT NULL DEFAULT 0,
        claims integer NOT NULL DEFAULT 0,
        owner text,
        grp text,
        is_first boolean NOT NULL DEFAULT true,
        is_surplus boolean NOT NULL DEFAULT false
    )""",
    # `owner` is the opening that has claimed it. What waits is found by name, in the order in which it is due; of a
    # group (`grp`) only the first one, in the order of positions. What is claimed has a slot of its name, unless it is
    # surplus.
    """CREATE INDEX IF NOT EXISTS definable_event_first ON definable_event (service, name, due_at, position)
        WHERE owner IS NULL AND is_first""",
    """CREATE INDEX IF NOT EXISTS definable_event_group ON definable_event (service, grp, position)
        WHERE grp IS NOT NULL""",
    "CREATE INDEX IF NOT EXISTS definable_event_owned ON definable_event (owner) WHERE owner IS NOT NULL",
    "CREATE INDEX IF NOT EXISTS definable_event_key ON definable_event (service, key) WHERE key IS NOT NULL",
    """CREATE TABLE IF NOT EXISTS definable_event_dead (
        number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        service text NOT NULL,
        id text NOT NULL,
        name bytea NOT NULL,
        data bytea NOT NULL,
        attempt integer NOT NULL,
        why bytea NOT NULL,
        died_at timestamptz NOT NULL DEFAULT now(),
        grp text
    )""",
    "CREATE INDEX IF NOT EXISTS definable_event_dead_by_service ON definable_event_dead (service, number)",
    """CREATE TABLE IF NOT EXISTS definable_event_dedupe (
        service text NOT NULL,
        digest text NOT NULL,
        expires_at timestamptz NOT NULL,
        claim text,
        owner text,
        PRIMARY KEY (service, digest)
    )""",
    # `owner` is the opening that has claimed the key without a publication: it is forgotten with a process that dies.
    "CREATE INDEX IF NOT EXISTS definable_event_dedupe_expiry ON definable_event_dedupe (expires_at)",
    """CREATE TABLE IF NOT EXISTS definable_event_value (
        service text NOT NULL,
        digest text NOT NULL,
        value bytea NOT NULL,
        expires_at timestamptz NOT NULL,
        PRIMARY KEY (service, digest)
    )""",
    "CREATE INDEX IF NOT EXISTS definable_event_value_expiry ON definable_event_value (expires_at)",
    """CREATE TABLE IF NOT EXISTS definable_event_unknown (
        service text NOT NULL,
        name bytea NOT NULL,
        since timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (service, name)
    )""",
    """CREATE TABLE IF NOT EXISTS definable_event_opening (
        opening text PRIMARY KEY,
        service text NOT NULL,
        alive_until timestamptz NOT NULL,
        batch bigint NOT NULL DEFAULT 0,
        outcome text NOT NULL DEFAULT ''
    )""",
    # `batch` is the last that it has written, `outcome` what came of it: one whose answer got lost is written once.
)

KEEP_VALUE = """INSERT INTO definable_event_value (service, digest, value, expires_at)
VALUES (%(service)s, %(digest)s, %(value)s, clock_timestamp() + make_interval(secs => %(ttl)s))
ON CONFLICT (service, digest) DO UPDATE
SET value = excluded.value, expires_at = clock_timestamp() + make_interval(secs => %(ttl)s)
WHERE definable_event_value.expires_at <= clock_timestamp() OR %(replace)s RETURNING digest"""

FIND_VALUE = """SELECT value FROM definable_event_value
WHERE service = %(service)s AND digest = %(digest)s AND expires_at > clock_timestamp()"""

DROP_VALUE = "DELETE FROM definable_event_value WHERE service = %(service)s AND digest = %(digest)s"

FORGET_EXPIRED_VALUES = "DELETE FROM definable_event_value WHERE expires_at <= now()"

BEGIN_BATCH = "SELECT batch, outcome FROM definable_event_opening WHERE opening = %s FOR UPDATE"

END_BATCH = """UPDATE definable_event_opening SET batch = %s, outcome = %s,
alive_until = greatest(alive_until, clock_timestamp() + make_interval(secs => %s)) WHERE opening = %s"""
"""It renews the lease: the batch may have waited for a lock, and no heartbeat is made meanwhile."""

HEARTBEAT = """UPDATE definable_event_opening SET alive_until = clock_timestamp() + make_interval(secs => %s)
WHERE opening = %s RETURNING opening"""

REGISTER = """INSERT INTO definable_event_opening (opening, service, alive_until)
VALUES (%s, %s, clock_timestamp() + make_interval(secs => %s))"""

TAKE_KEYS = """INSERT INTO definable_event_dedupe (service, digest, expires_at)
SELECT %(service)s, digest, now() + make_interval(secs => ttl)
FROM unnest(%(digests)s::text[], %(ttls)s::float8[]) AS new (digest, ttl) ORDER BY digest
ON CONFLICT (service, digest) DO UPDATE
SET expires_at = clock_timestamp() + (excluded.expires_at - now()), claim = NULL, owner = NULL
WHERE definable_event_dedupe.expires_at <= clock_timestamp() RETURNING digest"""

CLAIM_KEY = """INSERT INTO definable_event_dedupe AS kept (service, digest, expires_at, claim, owner)
VALUES (%(service)s, %(digest)s, clock_timestamp() + make_interval(secs => %(ttl)s), %(claim)s, %(owner)s)
ON CONFLICT (service, digest) DO UPDATE
SET expires_at = clock_timestamp() + make_interval(secs => %(ttl)s), claim = excluded.claim, owner = excluded.owner
WHERE kept.expires_at <= clock_timestamp() OR kept.claim = excluded.claim RETURNING digest"""

RELEASE_KEYS = """DELETE FROM definable_event_dedupe AS kept
USING unnest(%s::text[], %s::text[]) AS gone (digest, claim)
WHERE kept.service = %s AND kept.digest = gone.digest AND (gone.claim = '' OR kept.claim = gone.claim)"""

FORGET_EXPIRED = """DELETE FROM definable_event_dedupe WHERE (service, digest) IN (
SELECT service, digest FROM definable_event_dedupe WHERE expires_at <= now() LIMIT 1000 FOR UPDATE SKIP LOCKED)"""

REPLACE = "DELETE FROM definable_event WHERE service = %s AND key = ANY(%s) AND owner IS NULL AND due_at > now()"

LOCK_KEYS = """SELECT pg_advisory_xact_lock(hashtextextended(%s || ' ' || encode(key, 'hex'), 0))
FROM unnest(%s::bytea[]) AS given (key) ORDER BY key"""

NEW: LiteralString = """unnest(
    %(id)s::text[], %(name)s::bytea[], %(data)s::bytea[], %(delay)s::float8[], %(replaces)s::bytea[], %(group)s::text[])
WITH ORDINALITY AS new (id, name, data, delay, key, grp, number)"""

PUBLISH: LiteralString = f"""INSERT INTO definable_event (service, id, name, data, due_at, key, grp, is_first)
SELECT %(service)s, id, name, data, now() + make_interval(secs => delay), key, grp, grp IS NULL
FROM {NEW} ORDER BY number RETURNING position"""

PUBLISH_KEEPING_TIME: LiteralString = f"""WITH replaced AS (
    UPDATE definable_event AS kept SET id = new.id, name = new.name, data = new.data FROM {NEW}
    WHERE kept.service = %(service)s AND kept.key = new.key AND owner IS NULL AND due_at > now() RETURNING kept.key
) INSERT INTO definable_event (service, id, name, data, due_at, key)
SELECT %(service)s, id, name, data, now() + make_interval(secs => delay), key
FROM {NEW} WHERE NOT EXISTS (SELECT FROM replaced WHERE replaced.key = new.key) ORDER BY number RETURNING position"""
"""What waits under the same key is replaced where it stands: its time is kept."""

LOCK_GROUPS = """SELECT pg_advisory_xact_lock(%(lock)s, kind) FROM (
    SELECT DISTINCT abs(hashtext(%(service)s || grp)::bigint %% %(kinds)s)::integer AS kind
    FROM unnest(%(groups)s::text[]) AS changed (grp) ORDER BY kind
) AS kinds"""
"""Taken before anything of them is read, in one order by all; by kinds, since a server has room for so many locks."""

LOCK_ALL_GROUPS = "SELECT pg_advisory_xact_lock(%s, kind) FROM generate_series(0, %s - 1) AS kind"

FIND_FIRST = """UPDATE definable_event SET is_first = true WHERE position IN (
    SELECT waits.position FROM unnest(%(groups)s::text[]) AS changed (grp) CROSS JOIN LATERAL (
        SELECT position, is_first FROM definable_event
        WHERE service = %(service)s AND definable_event.grp = changed.grp ORDER BY position LIMIT 1
    ) AS waits WHERE NOT waits.is_first
)"""
"""What waits first of groups that have changed; before, nothing of those is first that has just been written."""

STUCK_GROUPS = """WITH RECURSIVE seen AS (
    (SELECT grp FROM definable_event WHERE service = %(service)s AND grp >= %(begin)s ORDER BY grp LIMIT 1)
    UNION ALL SELECT (
        SELECT more.grp FROM definable_event AS more WHERE more.service = %(service)s AND more.grp > seen.grp
        ORDER BY more.grp LIMIT 1
    ) FROM seen WHERE seen.grp IS NOT NULL
) SELECT looked_at.grp FROM (SELECT grp FROM seen WHERE grp IS NOT NULL LIMIT 100) AS looked_at CROSS JOIN LATERAL (
    SELECT is_first FROM definable_event
    WHERE service = %(service)s AND definable_event.grp = looked_at.grp ORDER BY position LIMIT 1
) AS waits WHERE NOT waits.is_first"""
"""Of a few groups, from one on by chance: those of which somebody has removed the first."""

NOTIFY = "SELECT pg_notify('definable_event', %s)"
"""The payload is the service, a space and the opening."""

ACK = "DELETE FROM definable_event WHERE position = ANY(%s) AND owner = %s"

NACK = """UPDATE definable_event SET owner = NULL, claims = 0, attempt = ended.attempts,
due_at = now() + make_interval(secs => ended.delay), key = NULL
FROM unnest(%s::bigint[], %s::float8[], %s::integer[]) AS ended (position, delay, attempts)
WHERE definable_event.position = ended.position AND owner = %s"""

RELEASE = """UPDATE definable_event SET owner = NULL, claims = claims - 1,
due_at = CASE WHEN gone.delay > 0 THEN now() + make_interval(secs => gone.delay) ELSE due_at END
FROM unnest(%s::bigint[], %s::float8[]) AS gone (position, delay)
WHERE definable_event.position = gone.position AND owner = %s"""

COUNT_CLAIMS = "UPDATE definable_event SET claims = claims + %s WHERE position = ANY(%s) AND owner = %s"

DEAD_LETTER = """WITH ended AS (
    DELETE FROM definable_event USING unnest(%s::bigint[], %s::bytea[], %s::integer[]) AS gone (position, why, attempts)
    WHERE definable_event.position = gone.position AND owner = %s
    RETURNING service, id, name, data, gone.attempts, gone.why, grp
) INSERT INTO definable_event_dead (service, id, name, data, attempt, why, grp) SELECT * FROM ended"""

FORGET_DEAD = """DELETE FROM definable_event_dead WHERE service = %(service)s AND number <= (
SELECT number FROM definable_event_dead WHERE service = %(service)s ORDER BY number DESC OFFSET %(kept)s LIMIT 1)"""

REPLAY = """WITH letter AS (
    DELETE FROM definable_event_dead WHERE service = %s AND id = ANY(%s) RETURNING service, id, name, data, grp
) INSERT INTO definable_event (service, id, name, data, due_at, grp, is_first)
SELECT service, id, name, data, now(), grp, grp IS NULL FROM letter RETURNING id"""

DEAD_GROUPS = "SELECT grp FROM definable_event_dead WHERE service = %s AND id = ANY(%s) AND grp IS NOT NULL"

LIST_DEAD = """SELECT id, name, data, attempt, why, extract(epoch FROM died_at)::float8, grp FROM definable_event_dead
WHERE service = %s ORDER BY number"""

WAITING_NAMES = """WITH RECURSIVE waiting AS (
    (SELECT name FROM definable_event WHERE service = %(service)s AND owner IS NULL AND is_first ORDER BY name LIMIT 1)
    UNION ALL SELECT (
        SELECT more.name FROM definable_event AS more
        WHERE more.service = %(service)s AND owner IS NULL AND is_first AND more.name > waiting.name
        ORDER BY more.name LIMIT 1
    ) FROM waiting WHERE waiting.name IS NOT NULL
) SELECT name FROM waiting WHERE name IS NOT NULL"""
"""One step into the index for each name (https://wiki.postgresql.org/wiki/Loose_indexscan), not one for each row."""

LOCK_LIMITS = """SELECT set_config('definable.limited', coalesce((
    SELECT string_agg(number::text, ',') FROM unnest(%(names)s::bytea[], %(sizes)s::bigint[])
    WITH ORDINALITY AS wanted (name, size, number)
    WHERE size IS NOT NULL
    AND pg_try_advisory_xact_lock(hashtextextended(%(service)s || ' limit ' || encode(name, 'hex'), 0))
), ''), true)"""
"""Only one replica at a time claims of a name that has a limit, and counts its slots when it has the lock."""

USED = """SELECT count(*) FROM definable_event AS held
WHERE held.service = %(service)s AND held.name = given.name AND held.owner IS NOT NULL AND NOT held.is_surplus"""

WANTED: LiteralString = f"""wanted AS MATERIALIZED (
    SELECT name, CASE WHEN size IS NULL THEN count
        WHEN number::text = ANY(string_to_array(current_setting('definable.limited', true), ','))
        THEN least(count, greatest(size - ({USED}), 0)) ELSE -1 END AS count
    FROM unnest(%(names)s::bytea[], %(counts)s::bigint[], %(sizes)s::bigint[])
    WITH ORDINALITY AS given (name, count, size, number)
)"""
"""How many may be claimed of each name: -1 where another replica claims of it now."""

CLAIMED = "kept.position, kept.id, kept.name, data, attempt, claims, due_at, grp, is_surplus"

CLAIM: LiteralString = f"""WITH {WANTED}
UPDATE definable_event AS kept SET owner = %(opening)s, claims = claims + 1, is_surplus = false
FROM (
    SELECT position FROM definable_event WHERE owner IS NULL AND position IN (
        SELECT first.position FROM wanted CROSS JOIN LATERAL (
            SELECT position FROM definable_event AS waits
            WHERE waits.service = %(service)s AND waits.name = wanted.name AND owner IS NULL AND is_first
            AND due_at <= (SELECT clock_timestamp()) ORDER BY due_at, position LIMIT greatest(wanted.count, 0)
        ) AS first
    ) ORDER BY due_at, position LIMIT %(demand)s FOR UPDATE SKIP LOCKED
) AS found
WHERE kept.position = found.position
RETURNING {CLAIMED}"""

CLAIM_SURPLUS: LiteralString = f"""WITH {WANTED}
UPDATE definable_event AS kept SET owner = %(opening)s, claims = claims + 1, is_surplus = true
FROM (
    SELECT position FROM definable_event JOIN wanted USING (name) WHERE service = %(service)s AND wanted.count = 0
    AND name = ANY(%(skipped)s::bytea[]) AND owner IS NULL AND is_first
    AND due_at <= (SELECT clock_timestamp()) AND attempt = 0 AND claims = 0
    ORDER BY due_at, position LIMIT %(demand)s FOR UPDATE OF definable_event SKIP LOCKED
) AS found
WHERE kept.position = found.position
RETURNING {CLAIMED}"""
"""What is no retry, of names that are skipped when all their slots are used."""

NEXT_DUE: LiteralString = f"""WITH {WANTED} SELECT extract(epoch FROM min(first.due_at) - clock_timestamp())::float8
FROM wanted CROSS JOIN LATERAL (
    SELECT due_at FROM definable_event AS waits
    WHERE waits.service = %(service)s AND waits.name = wanted.name AND owner IS NULL AND is_first
    ORDER BY due_at LIMIT 1
) AS first WHERE wanted.count <> 0"""

SLOTS = """SELECT name, count(*), bool_or(owner = %s) FROM definable_event
WHERE service = %s AND owner IS NOT NULL AND NOT is_surplus GROUP BY name"""
"""How many are used of each name, and whether an opening has one of them."""

OWNED = """SELECT position, id, name, data, attempt, claims, due_at, grp, is_surplus FROM definable_event
WHERE owner = %s AND position <> ALL(%s) ORDER BY due_at, position"""

PASSED = """SELECT DISTINCT name FROM definable_event
WHERE service = %s AND owner IS NULL AND is_first AND due_at <= now() AND position <= %s"""

SWEEP = """WITH gone AS (
    DELETE FROM definable_event_opening WHERE opening IN (
        SELECT opening FROM definable_event_opening WHERE alive_until < now() AND opening <> %s FOR UPDATE SKIP LOCKED
    ) RETURNING opening
), forgotten AS (
    DELETE FROM definable_event_dedupe USING gone WHERE definable_event_dedupe.owner = gone.opening
) UPDATE definable_event SET owner = NULL FROM gone WHERE definable_event.owner = gone.opening"""

LEAVE_UNKNOWN = """INSERT INTO definable_event_unknown (service, name)
SELECT %s, name FROM unnest(%s::bytea[]) AS new (name) ON CONFLICT DO NOTHING RETURNING name"""

FOUND_UNKNOWN = "SELECT name FROM definable_event_unknown WHERE service = %s"

FORGET_UNKNOWN = "DELETE FROM definable_event_unknown WHERE service = %s AND name = ANY(%s)"

HAS_EXPIRED_UNKNOWN = """SELECT 1 FROM definable_event_unknown
WHERE service = %s AND since <= now() - make_interval(secs => %s) LIMIT 1"""

EXPIRED_UNKNOWN = """WITH gone AS (
    DELETE FROM definable_event_unknown WHERE service = %s AND since <= now() - make_interval(secs => %s) RETURNING name
), ended AS (
    DELETE FROM definable_event USING gone
    WHERE definable_event.service = %s AND definable_event.name = gone.name AND owner IS NULL
    RETURNING position, service, id, definable_event.name, data, attempt + claims AS attempt, grp
) INSERT INTO definable_event_dead (service, id, name, data, attempt, grp, why)
SELECT service, id, name, data, attempt, grp, 'no handler is registered for '''::bytea || name || ''''::bytea
FROM ended ORDER BY position RETURNING id"""

GIVE_BACK = """UPDATE definable_event SET owner = NULL,
attempt = attempt + CASE WHEN position = ANY(%(held)s) THEN 1 ELSE 0 END,
claims = claims - CASE WHEN position = ANY(%(held)s) THEN 1 ELSE 0 END WHERE owner = %(opening)s"""

KEEP_KEYS = "UPDATE definable_event_dedupe SET owner = NULL WHERE owner = %s"

DEREGISTER = "DELETE FROM definable_event_opening WHERE opening = %s"

WAITING_RUNS = "SELECT data FROM definable_event WHERE service = %s AND name = ANY(%s) ORDER BY position LIMIT %s"

BACKLOG = """SELECT count(*), extract(epoch FROM min(due_at))::float8 FROM (
    SELECT due_at FROM definable_event WHERE service = %(service)s AND owner IS NULL AND is_first AND due_at <= now()
    UNION ALL SELECT due_at FROM definable_event WHERE service = %(service)s AND grp IS NOT NULL AND NOT is_first
) AS waiting"""
