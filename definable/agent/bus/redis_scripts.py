"""What the `RedisBus` has the server do whole, in Lua. Every key begins with one hash tag, so that a cluster keeps all
of them on one node.

| key | holds |
|---|---|
| `{prefix}:line` | a stream: what waits and what is in hand. Fields `i` id, `n` name, `d` data, `a` earlier attempts |
| `{prefix}:later` | a sorted set by due time (server's Unix ms): what waits for its next attempt, packed |
| `{prefix}:dead`, `:dead:order` | dead letters by id, packed, and a sorted set in the order of their deaths |
| `{prefix}:key:...` | a dedupe key; its value says who has taken it |
| `{prefix}:turn:...` | the last turn that an opening of a bus has made, so that one that is repeated is made once |
| `{prefix}:alive:...` | an opening of a bus that lives; gone when it has not been heard of for a lease |

The consumer group is `workers`, a consumer is an opening of a bus. The consumer `-` holds what a bus has given back:
idle for longer than any lease, so that whoever sweeps next takes it.

KEYS[1] to KEYS[4] are line, later, dead and its order. ARGV[1] is the part before the names of keys that a script finds
by itself, ARGV[2] the consumer, ARGV[3] the lease in ms.
"""

from __future__ import annotations

from typing import Any

from definable.storage.redis_address import data, integer, items, list_of, nothing, stream_entry
from definable.storage.redis_link import Script

MAX_DEAD_LETTERS = 10_000
"""Of the deliveries that died, so many of the last ones are kept."""

MOVED_AT_ONCE = 100
"""Deliveries that have come due and join the line in one call."""

_BEGINNING = f"""
local line, later, dead, order = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local prefix, me, lease = ARGV[1], ARGV[2], tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local last = ''

local at = 3
local function arg()
  at = at + 1
  return ARGV[at]
end

local function add(id, name, data, attempts)
  if attempts == 0 then
    last = redis.call('XADD', line, '*', 'i', id, 'n', name, 'd', data)
  else
    last = redis.call('XADD', line, '*', 'i', id, 'n', name, 'd', data, 'a', attempts)
  end
end

-- How often an entry was handed out, when it is still in this consumer's hands.
local function handed_out(entry)
  local pending = redis.call('XPENDING', line, 'workers', entry, entry, 1)[1]
  return pending and pending[2] == me and pending[4]
end

local function fields(entry)
  local found = {{}}
  local flat = redis.call('XRANGE', line, entry, entry)[1]
  if not flat then return nil end
  for i = 1, #flat[2], 2 do found[flat[2][i]] = flat[2][i + 1] end
  found.a = tonumber(found.a or '0')
  return found
end

local function forget(entries)
  for i = 1, #entries, 500 do
    local last_one = math.min(i + 499, #entries)
    redis.call('XACK', line, 'workers', unpack(entries, i, last_one))
    redis.call('XDEL', line, unpack(entries, i, last_one))
  end
end

-- A server that is full refuses SET, but not PEXPIRE, nor what a script does after it.
local function stay_alive()
  local key = prefix .. ':alive:' .. me
  if redis.call('PEXPIRE', key, lease) == 0 then redis.call('SET', key, '', 'PX', lease) end
end

local function take_key(key, value, ttl)
  local holder = redis.call('GET', key)
  if holder and holder ~= value then
    local claimant = string.match(holder, '^claim:([^:]*):')
    if not claimant or redis.call('EXISTS', prefix .. ':alive:' .. claimant) == 1 then return false end
  end
  redis.call('SET', key, value, 'PX', ttl)
  return true
end

local function move_due()
  for _, packed in ipairs(redis.call('ZRANGEBYSCORE', later, '-inf', now, 'LIMIT', 0, {MOVED_AT_ONCE})) do
    local e = cmsgpack.unpack(packed)
    add(e[1], e[2], e[3], e[4])
    redis.call('ZREM', later, packed)
  end
  local next = redis.call('ZRANGE', later, 0, 0, 'WITHSCORES')[2]
  return next and math.max(next - now, 0) or -1
end
"""


def _turn_answer(answer: Any) -> tuple[list[bytes], int, bytes]:
    refused, due, last = items(answer, 3)
    return list_of(data)(refused), integer(due), data(last)


def _sweep_answer(answer: Any) -> tuple[bytes, list[tuple[bytes, list[bytes], int]], int]:
    cursor, swept, due = items(answer, 3)
    return data(cursor), list_of(_swept)(swept), integer(due)


def _swept(answer: Any) -> tuple[bytes, list[bytes], int]:
    id, fields, times = items(answer, 3)
    return (*stream_entry([id, fields]), integer(times))


def _passed_answer(answer: Any) -> tuple[bool, bool]:
    passed, in_hand = items(answer, 2)
    return bool(integer(passed)), bool(integer(in_hand))


def _letter(answer: Any) -> tuple[bytes, bytes, bytes, int, bytes, int]:
    id, name, body, attempt, why, at = items(answer, 6)
    return data(id), data(name), data(body), integer(attempt), data(why), integer(at)


def _name_and_data(answer: Any) -> tuple[bytes, bytes]:
    name, body = items(answer, 2)
    return data(name), data(body)


TURN = Script(
    _BEGINNING
    + f"""
local turn, number = KEYS[5], arg()
local refused = {{}}
local made = redis.call('GET', turn)
if made then
  made = cmsgpack.unpack(made)
  if made[1] == number then return {{made[2], move_due(), last}} end
end

local count = tonumber(arg())
for _ = 1, count do
  local id, name, data, key, ttl = arg(), arg(), arg(), tonumber(arg()), arg()
  if key == 0 or take_key(KEYS[key], id, ttl) then
    add(id, name, data, 0)
  else
    refused[#refused + 1] = id
  end
end
if count > 0 then redis.call('SET', turn, cmsgpack.pack({{number, refused}}), 'PX', 86400000) end

-- Forgotten first: a server that is full refuses what may take room, unless something was written before.
local gone = {{}}
for _ = 1, tonumber(arg()) do gone[#gone + 1] = arg() end
forget(gone)

for _ = 1, tonumber(arg()) do
  local entry, delay = arg(), tonumber(arg())
  local times, e = handed_out(entry), fields(entry)
  if times and e then
    forget({{entry}})
    if delay <= 0 then
      add(e.i, e.n, e.d, e.a + times)
    else
      redis.call('ZADD', later, now + delay, cmsgpack.pack({{e.i, e.n, e.d, e.a + times}}))
    end
  end
end

for i = 1, tonumber(arg()) do
  local entry, why = arg(), arg()
  local times, e = handed_out(entry), fields(entry)
  if times and e then
    forget({{entry}})
    redis.call('HSET', dead, e.i, cmsgpack.pack({{e.n, e.d, e.a + times, why, now}}))
    redis.call('ZADD', order, time[1] * 1000000 + time[2] + i, e.i)
  end
end
local beyond = redis.call('ZCARD', order) - {MAX_DEAD_LETTERS}
if beyond > 0 then
  for _, id in ipairs(redis.call('ZRANGE', order, 0, beyond - 1)) do redis.call('HDEL', dead, id) end
  redis.call('ZREMRANGEBYRANK', order, 0, beyond - 1)
end

for _ = 1, tonumber(arg()) do
  local entry = arg()
  local times = handed_out(entry)
  if times then
    redis.call('XCLAIM', line, 'workers', '-', 0, entry, 'IDLE', lease * 1000, 'RETRYCOUNT', times - 1, 'JUSTID')
  end
end

for _ = 1, tonumber(arg()) do
  local key, value = KEYS[tonumber(arg())], arg()
  if value == '' or redis.call('GET', key) == value then redis.call('DEL', key) end
end
return {{refused, move_due(), last}}
""",
    _turn_answer,
)
"""Accept publications, settle deliveries, let in what is due.

Args: turn's number; count, then (id, name, data, index of its dedupe key or 0, time to live in ms); count, then entries
that are done; count, then (entry, delay in ms) to hand out again; count, then (entry, why) that are dead; count, then
entries that were handed out to nobody; count, then (index of a dedupe key, its value or empty for any) to forget.

Returns: the ids that were refused as repeats; ms until something is due, or -1; the last entry that joined the line.
"""

SWEEP = Script(
    _BEGINNING
    + """
local cursor, count, result = arg(), tonumber(arg()), {}
local claimed = redis.call('XAUTOCLAIM', line, 'workers', me, lease, cursor, 'COUNT', count)
for _, entry in ipairs(claimed[2]) do
  if entry then result[#result + 1] = {entry[1], entry[2], handed_out(entry[1])} end
end
return {claimed[1], result, move_due()}
""",
    _sweep_answer,
)
"""Take over what nobody has cared for during a lease.

Args: where to go on; how many. Returns: where to go on; entries, their fields and how often they were handed out; ms
until something is due, or -1.
"""

HEARTBEAT = Script(
    _BEGINNING
    + """
local lost = {}
stay_alive()
for _ = 1, tonumber(arg()) do
  local entry = arg()
  if handed_out(entry) then
    redis.call('XCLAIM', line, 'workers', me, 0, entry, 'JUSTID')
  else
    lost[#lost + 1] = entry
  end
end
return lost
""",
    list_of(data),
)
"""Renew the leases of what is in hand: a plain XCLAIM would take back what somebody else has by now.

Args: count, then entries. Returns: those that are no longer in this consumer's hands.
"""

OPEN = Script(
    _BEGINNING
    + """
if redis.call('EXISTS', line) == 0 then
  redis.call('XGROUP', 'CREATE', line, 'workers', '0', 'MKSTREAM')
else
  local found = false
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', line)) do found = found or group[2] == 'workers' end
  if not found then redis.call('XGROUP', 'CREATE', line, 'workers', '0') end
end
stay_alive()
for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', line, 'workers')) do
  local name, pending = consumer[2], consumer[4]
  if pending == 0 and name ~= '-' and redis.call('EXISTS', prefix .. ':alive:' .. name) == 0 then
    redis.call('XGROUP', 'DELCONSUMER', line, 'workers', name)
  end
end
""",
    nothing,
)
"""Make what is missing, and forget consumers that are gone and hold nothing."""

CLOSE = Script(
    _BEGINNING
    + """
while true do
  local held = redis.call('XPENDING', line, 'workers', '-', '+', 500, me)
  if #held == 0 then break end
  for _, entry in ipairs(held) do
    redis.call('XCLAIM', line, 'workers', '-', 0, entry[1], 'IDLE', lease * 1000, 'RETRYCOUNT', entry[4], 'JUSTID')
    if not fields(entry[1]) then redis.call('XACK', line, 'workers', entry[1]) end
  end
end
redis.call('XGROUP', 'DELCONSUMER', line, 'workers', me)
redis.call('SET', prefix .. ':alive:' .. me, '', 'PX', arg())
""",
    nothing,
)
"""Give back what is in hand, and go. What this opening has claimed stays so.

Args: for how long, in ms.
"""

PASSED = Script(
    _BEGINNING
    + """
local wanted, delivered = arg(), '0-0'
for _, group in ipairs(redis.call('XINFO', 'GROUPS', line)) do
  if group[2] == 'workers' then delivered = group[8] end
end
local function parts(id)
  local ms, number = string.match(id, '(%d+)-(%d+)')
  return tonumber(ms), tonumber(number)
end
local ms, number = parts(delivered)
local wanted_ms, wanted_number = parts(wanted)
local passed = not fields(wanted) or ms > wanted_ms or (ms == wanted_ms and number >= wanted_number)
return {passed and 1 or 0, #redis.call('XPENDING', line, 'workers', '-', '+', 1, me)}
""",
    _passed_answer,
)
"""Args: an entry. Returns: whether it has been handed out to somebody, or is no more; whether this consumer has
anything in hand."""

CLAIM = Script(_BEGINNING + "return take_key(KEYS[5], arg(), arg()) and 1 or 0", integer)
"""Take a dedupe key without a publication. Args: its value; time to live in ms."""

RELEASE = Script("redis.call('DEL', KEYS[5])", nothing)
"""Forget a dedupe key."""

LIST_DEAD = Script(
    _BEGINNING
    + """
local result = {}
for _, id in ipairs(redis.call('ZRANGE', order, 0, -1)) do
  local packed = redis.call('HGET', dead, id)
  if packed then -- else it was evicted
    local e = cmsgpack.unpack(packed)
    result[#result + 1] = {id, e[1], e[2], e[3], e[4], e[5]}
  end
end
return result
""",
    list_of(_letter),
)
"""Returns: id, name, data, attempt, why, when (Unix ms) of each."""

LIST_LATER = Script(
    _BEGINNING
    + """
local result = {}
for _, packed in ipairs(redis.call('ZRANGE', later, 0, arg() - 1)) do
  local e = cmsgpack.unpack(packed)
  result[#result + 1] = {e[2], e[3]}
end
return result
""",
    list_of(_name_and_data),
)
"""Arguments: how many are wanted. Returns: name, data of each, the first that is due first."""

REPLAY = Script(
    _BEGINNING
    + """
local id = arg()
local packed = redis.call('HGET', dead, id)
if not packed then return '' end
local e = cmsgpack.unpack(packed)
redis.call('HDEL', dead, id)
redis.call('ZREM', order, id)
add(id, e[1], e[2], 0)
return last
""",
    data,
)
"""Bring a dead letter back to life. Args: its id. Returns: its entry in the line, empty when there is none."""

SCRIPTS = (TURN, SWEEP, HEARTBEAT, OPEN, CLOSE, PASSED, CLAIM, RELEASE, LIST_DEAD, LIST_LATER, REPLAY)
