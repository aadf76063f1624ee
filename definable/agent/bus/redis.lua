-- What the `RedisBus` has the server do whole. ARGV[1] names the function below; see `redis.py` for its callers. KEYS[1]
-- is the stream, which tells a cluster where to run it.
--
-- Every key begins with one hash tag, `{prefix}`, so that a cluster keeps all of them on one node:
--
--   {prefix}:line          a stream: what waits and what is claimed. Fields: i id, n name, d data, a earlier attempts,
--                          g group
--   {prefix}:limited       a stream: what was claimed out of a list below. The same fields
--   {prefix}:parked        a hash: names whose messages wait in a list of their own, with their number
--   {prefix}:parked:NAME   that list, packed: a process took them from the stream and could not begin them
--   {prefix}:slots:NAME    a sorted set by the time (Unix ms) at which each is over: slots of a limited name, by handle
--   {prefix}:groups        a hash: groups that have something to handle, with the handle of the first, which is empty
--                          while that is not in a stream; by '' the number of all in the lists below
--   {prefix}:groups:GROUP  a list: what waits behind the first, packed
--   {prefix}:unknown       a hash: names without a handler wherever their messages were seen, and since when (Unix ms)
--   {prefix}:attempts      a hash: attempts that ended with an orderly stop, by the entry of a stream
--   {prefix}:later         a sorted set by due time (Unix ms): what waits for its time, packed
--   {prefix}:later:keys    a hash: the members of `later` that have a name for `cancel`, by it
--   {prefix}:dead, :dead:order   dead letters by id, packed, and a sorted set in the order of their deaths
--   {prefix}:key:...       a dedupe key; its value says who has taken it
--   {prefix}:turn:...      the last batch that a process has written, so that one that is repeated is written once
--   {prefix}:alive:...     a process that lives; gone when it has not been heard of for a lease
--
-- The consumer group of both streams is `workers`; a consumer is one opening of a bus. The consumer `-` holds what was
-- given back: idle for longer than any lease, so that the next sweep takes it. The handle of an entry of `limited` has
-- `+` before it. Packed is {id, name, data, attempts, name for cancel or false, group or nil}.

local prefix, me, lease = ARGV[2], ARGV[3], tonumber(ARGV[4])
local line, limited, later = prefix .. ':line', prefix .. ':limited', prefix .. ':later'
local dead, order, parked = prefix .. ':dead', prefix .. ':dead:order', prefix .. ':parked'
local attempts, unknown, later_keys = prefix .. ':attempts', prefix .. ':unknown', prefix .. ':later:keys'
local groups = prefix .. ':groups'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local last = ''
local call = redis.call

local at = 4
local function arg()
  at = at + 1
  return ARGV[at]
end

-- Behind all that waits.
local function add(id, name, data, attempts, group)
  if group then
    last = call('XADD', line, '*', 'i', id, 'n', name, 'd', data, 'a', attempts, 'g', group)
    call('HSET', groups, group, last)
  elseif attempts == 0 then
    last = call('XADD', line, '*', 'i', id, 'n', name, 'd', data)
  else
    last = call('XADD', line, '*', 'i', id, 'n', name, 'd', data, 'a', attempts)
  end
end

local function split(handle)
  if string.sub(handle, 1, 1) == '+' then return limited, string.sub(handle, 2) end
  return line, handle
end

-- How often an entry was claimed, when it is still this consumer's.
local function claims(handle)
  local stream, entry = split(handle)
  local pending = call('XPENDING', stream, 'workers', entry, entry, 1)[1]
  return pending and pending[2] == me and pending[4]
end

local function fields(handle)
  local stream, entry = split(handle)
  local found, flat = {}, call('XRANGE', stream, entry, entry)[1]
  if not flat then return nil end
  for i = 1, #flat[2], 2 do found[flat[2][i]] = flat[2][i + 1] end
  found.a = tonumber(found.a or '0') + tonumber(call('HGET', attempts, handle) or '0')
  return found
end

-- The first of a group has come to its end: the next one is the first.
local function advance(group)
  if not group then return end
  local packed = call('LPOP', groups .. ':' .. group)
  if not packed then
    call('HDEL', groups, group)
    return
  end
  if call('HINCRBY', groups, '', -1) <= 0 then call('HDEL', groups, '') end
  local e = cmsgpack.unpack(packed)
  add(e[1], e[2], e[3], e[4], group)
end

-- Have what is new wait for a process, or behind the others of its group, unless somebody has removed the first of them.
local function publish(id, name, data, group)
  local first = group and call('HGET', groups, group)
  if not first then
    add(id, name, data, 0, group)
    return
  end
  call('RPUSH', groups .. ':' .. group, cmsgpack.pack({id, name, data, 0, false, group}))
  call('HINCRBY', groups, '', 1)
  if first ~= '' and not fields(first) then advance(group) end
end

local function forget(handles)
  local of = {[line] = {}, [limited] = {}}
  for _, handle in ipairs(handles) do
    local stream, entry = split(handle)
    table.insert(of[stream], entry)
  end
  for stream, entries in pairs(of) do
    for i = 1, #entries, 500 do
      local last_one = math.min(i + 499, #entries)
      call('XACK', stream, 'workers', unpack(entries, i, last_one))
      call('XDEL', stream, unpack(entries, i, last_one))
    end
  end
  if #handles > 0 and call('EXISTS', attempts) == 1 then
    for i = 1, #handles, 500 do call('HDEL', attempts, unpack(handles, i, math.min(i + 499, #handles))) end
  end
end

local function claim_again(handle, consumer, idle, count)
  local stream, entry = split(handle)
  call('XCLAIM', stream, 'workers', consumer, 0, entry, 'IDLE', idle, 'RETRYCOUNT', count, 'JUSTID')
end

-- A server that is full refuses SET, but not PEXPIRE, nor what a script does after it.
local function stay_alive()
  local key = prefix .. ':alive:' .. me
  if call('PEXPIRE', key, lease) == 0 then call('SET', key, '', 'PX', lease) end
end

local function take_key(key, value, ttl)
  local holder = call('GET', key)
  if holder and holder ~= value then
    local claimant = string.match(holder, '^claim:([^:]*):')
    if not claimant or call('EXISTS', prefix .. ':alive:' .. claimant) == 1 then return false end
  end
  call('SET', key, value, 'PX', ttl)
  return true
end

local function cancel(key)
  local packed = call('HGET', later_keys, key)
  if not packed then return false end
  call('HDEL', later_keys, key)
  local due_at = call('ZSCORE', later, packed)
  return call('ZREM', later, packed) == 1 and tonumber(due_at)
end

local function wait(due_at, id, name, data, attempts, key, group)
  local packed = cmsgpack.pack({id, name, data, attempts, key or false, group})
  if group then call('HSET', groups, group, '') end
  if key then
    cancel(key)
    call('HSET', later_keys, key, packed)
  end
  call('ZADD', later, due_at, packed)
end

local function move_due()
  for _, packed in ipairs(call('ZRANGEBYSCORE', later, '-inf', now, 'LIMIT', 0, 100)) do
    local e = cmsgpack.unpack(packed)
    add(e[1], e[2], e[3], e[4], e[6])
    call('ZREM', later, packed)
    if e[5] then call('HDEL', later_keys, e[5]) end
  end
  local next = call('ZRANGE', later, 0, 0, 'WITHSCORES')[2]
  return next and math.max(next - now, 0) or -1
end

local deaths = 0
local function keep_letter(id, name, data, attempts, why, group)
  deaths = deaths + 1
  call('HSET', dead, id, cmsgpack.pack({name, data, attempts, why, now, group}))
  call('ZADD', order, time[1] * 1000000 + time[2] + deaths, id)
  local beyond = call('ZCARD', order) - 10000
  if beyond > 0 then
    for _, old in ipairs(call('ZRANGE', order, 0, beyond - 1)) do call('HDEL', dead, old) end
    call('ZREMRANGEBYRANK', order, 0, beyond - 1)
  end
end

local function dead_letter(id, name, data, attempts, why, group)
  keep_letter(id, name, data, attempts, why, group)
  advance(group)
end

-- Make dead letters of all that waits behind the first of a group.
local function dead_letter_behind(group, why)
  local behind = groups .. ':' .. group
  for _, packed in ipairs(call('LRANGE', behind, 0, -1)) do
    local e = cmsgpack.unpack(packed)
    keep_letter(e[1], e[2], e[3], e[4], why, group)
    if call('HINCRBY', groups, '', -1) <= 0 then call('HDEL', groups, '') end
  end
  call('DEL', behind)
end

-- Of a few groups by chance: the next one is the first where somebody has removed that.
local function begin_groups()
  if call('EXISTS', groups) == 0 then return end
  for _, group in ipairs(call('HRANDFIELD', groups, 100)) do
    local first = call('HGET', groups, group)
    if group ~= '' and first ~= '' and not fields(first) then advance(group) end
  end
end

-- Move an entry to the list of its name: what was claimed out of it goes to its front.
local function park(handle)
  local count, e = claims(handle), fields(handle)
  if not (count and e) then return end
  forget({handle})
  local push = split(handle) == limited and 'LPUSH' or 'RPUSH'
  call(push, parked .. ':' .. e.n, cmsgpack.pack({e.i, e.n, e.d, e.a + count - 1, false, e.g}))
  call('HINCRBY', parked, e.n, 1)
  if e.g then call('HSET', groups, e.g, '') end
end

local function slots(name) return prefix .. ':slots:' .. name end

local function has_free_slot(name, limit)
  call('ZREMRANGEBYSCORE', slots(name), '-inf', now)
  return call('ZCARD', slots(name)) < limit
end

local function hold_slot(name, handle)
  call('ZADD', slots(name), now + lease, handle)
  call('PEXPIRE', slots(name), 2 * lease)
end

local function free_slots()
  for _ = 1, tonumber(arg()) do
    local name, handle = arg(), arg()
    call('ZREM', slots(name), handle)
  end
end

-- Claim out of the list of a name; the entries have no other way into the stream, so the next read has them all.
local function claim_parked(name, count, limit)
  local key, moved = parked .. ':' .. name, 0
  while moved < count and (limit == 0 or has_free_slot(name, limit)) do
    local packed = call('LPOP', key)
    if not packed then break end
    local e = cmsgpack.unpack(packed)
    local entry = call('XADD', limited, '*', 'i', e[1], 'n', e[2], 'd', e[3], 'a', e[4], unpack(e[6] and {'g', e[6]} or {}))
    if e[6] then call('HSET', groups, e[6], '+' .. entry) end
    if limit > 0 then hold_slot(name, '+' .. entry) end
    moved = moved + 1
  end
  if call('EXISTS', key) == 0 then
    call('HDEL', parked, name)
  elseif moved > 0 then
    call('HINCRBY', parked, name, -moved)
  end
  call('HDEL', unknown, name)
  return moved
end

local function read_limited(count)
  local found = {}
  if count == 0 then return found end
  local answer = call('XREADGROUP', 'GROUP', 'workers', me, 'COUNT', count, 'STREAMS', limited, '>')
  -- A map in RESP3, a list in RESP2, which scripts see.
  for _, entry in ipairs(answer and answer[1] and answer[1][2] or {}) do
    found[#found + 1] = {'+' .. entry[1], entry[2], 1, 0}
  end
  return found
end

local functions = {}

-- Write a batch. KEYS from 2 on: its dedupe keys. Arguments: number; 1 for a batch that was given up, whose number must not be
-- written any more; then lists, each with its length before it: publications (id, name, data, index of its dedupe key
-- or 0, time to live in ms, delay in ms, name for cancel, 1 to keep the time of the one replaced, group); acked; parked;
-- begun; nacked (handle, delay, attempts); dead (handle, why, attempts); released (handle, delay, or -1 to the list of its
-- name); dedupe keys to forget (index, value or empty for any); names to cancel; ids of dead letters to replay; slots to free (name, handle); names to claim
-- from (name, count, limit or 0).
-- Returns: whether it was written before; ids refused as repeats; ms until something is due, or -1; the last entry;
-- what was claimed; names whose lists are empty; names that were cancelled; ids that were replayed; names without a slot.
function functions.apply()
  local turn, number, is_given_up = prefix .. ':turn:' .. me, tonumber(arg()), arg() == '1'
  local made = call('GET', turn)
  if made then
    made = cmsgpack.unpack(made)
    if tonumber(made[1]) >= number then
      local same = tonumber(made[1]) == number
      return {1, same and made[2] or {}, move_due(), last, {}, {}, same and made[3] or {}, same and made[4] or {}, {}}
    end
  end
  local repeated, cancelled, replayed = {}, {}, {}
  if is_given_up then
    call('SET', turn, cmsgpack.pack({number, repeated, cancelled, replayed}), 'PX', 86400000)
    return {0, {}, -1, '', {}, {}, {}, {}, {}}
  end
  local count = tonumber(arg())
  for _ = 1, count do
    local id, name, data, key, ttl, delay = arg(), arg(), arg(), tonumber(arg()), arg(), tonumber(arg())
    local replaces, keeps_time, group = arg(), arg() == '1', arg()
    if key == 0 or take_key(KEYS[key], id, ttl) then
      local due_at = replaces ~= '' and cancel(replaces)
      if delay > 0 then
        wait(keeps_time and due_at or now + delay, id, name, data, 0, replaces ~= '' and replaces or nil)
      else
        publish(id, name, data, group ~= '' and group)
      end
    else
      repeated[#repeated + 1] = id
    end
  end

  -- Forgotten first: a server that is full refuses what may take room, unless something was written before.
  local gone, ended, has_groups = {}, {}, call('EXISTS', groups) == 1
  for _ = 1, tonumber(arg()) do
    local handle = arg()
    local group = has_groups and (fields(handle) or {}).g
    -- Of another process by now: that one's end counts.
    if not group or claims(handle) then gone[#gone + 1] = handle end
    if group and claims(handle) then ended[#ended + 1] = group end
  end
  forget(gone)
  for _, group in ipairs(ended) do advance(group) end

  for change = -1, 1, 2 do
    for _ = 1, tonumber(arg()) do
      local handle = arg()
      local times = claims(handle)
      if times then claim_again(handle, me, 0, times + change) end
      count = count + 1
    end
  end

  for _ = 1, tonumber(arg()) do
    local handle, delay, tries = arg(), tonumber(arg()), tonumber(arg())
    local e = claims(handle) and fields(handle)
    if e then
      forget({handle})
      if delay <= 0 then add(e.i, e.n, e.d, tries, e.g) else wait(now + delay, e.i, e.n, e.d, tries, nil, e.g) end
    end
  end

  for _ = 1, tonumber(arg()) do
    local handle, why, tries = arg(), arg(), tonumber(arg())
    local e = claims(handle) and fields(handle)
    if e then
      forget({handle})
      dead_letter(e.i, e.n, e.d, tries, why, e.g)
    end
  end

  for _ = 1, tonumber(arg()) do
    local handle, delay = arg(), tonumber(arg())
    local times = claims(handle)
    if times and delay == -1 then
      park(handle)
    elseif times then -- a sweep takes what is idle for a lease
      claim_again(handle, '-', delay == 0 and lease * 1000 or math.max(lease - delay, 0), times - 1)
    end
  end

  for _ = 1, tonumber(arg()) do
    local key, value = KEYS[tonumber(arg())], arg()
    if value == '' or call('GET', key) == value then call('DEL', key) end
  end
  for _ = 1, tonumber(arg()) do
    local key = arg()
    if cancel(key) then cancelled[#cancelled + 1] = key end
  end
  for _ = 1, tonumber(arg()) do
    local id = arg()
    local packed = call('HGET', dead, id)
    if packed then
      local e = cmsgpack.unpack(packed)
      call('HDEL', dead, id)
      call('ZREM', order, id)
      publish(id, e[1], e[2], e[6])
      replayed[#replayed + 1] = id
    end
  end
  if count + #cancelled + #replayed > 0 then
    call('SET', turn, cmsgpack.pack({number, repeated, cancelled, replayed}), 'PX', 86400000)
  end

  free_slots()
  local moved, empty, blocked = 0, {}, {}
  for _ = 1, tonumber(arg()) do
    local name, wanted, limit = arg(), tonumber(arg()), tonumber(arg())
    local found = claim_parked(name, wanted, limit)
    moved = moved + found
    if found < wanted then
      local without = call('EXISTS', parked .. ':' .. name) == 1 and blocked or empty
      without[#without + 1] = name
    end
  end
  return {0, repeated, move_due(), last, read_limited(moved), empty, cancelled, replayed, blocked}
end

-- Take over what no process has cared for during a lease. Arguments: where to go on; how many; seconds in ms after
-- which what has no handler is dead; count, then names that have none here. Returns: where to go on; handles, fields,
-- claims and further attempts; ms until something is due, or -1; names with a list of their own.
function functions.sweep()
  local cursor, count, ttl, found = arg(), tonumber(arg()), tonumber(arg()), {}
  local function sweep(stream, from, mark)
    local answer = call('XAUTOCLAIM', stream, 'workers', me, lease, from, 'COUNT', count)
    for _, entry in ipairs(answer[2]) do
      if entry then
        local handle = mark .. entry[1]
        found[#found + 1] = {handle, entry[2], claims(handle), tonumber(call('HGET', attempts, handle) or '0')}
      end
    end
    return answer[1]
  end
  cursor = sweep(line, cursor, '')
  sweep(limited, '0-0', '+')
  begin_groups()
  for _ = 1, tonumber(arg()) do
    local name = arg()
    call('HSETNX', unknown, name, now)
    if now - call('HGET', unknown, name) >= ttl then
      for _, packed in ipairs(call('LRANGE', parked .. ':' .. name, 0, -1)) do
        local e, why = cmsgpack.unpack(packed), "no handler is registered for '" .. name .. "'"
        keep_letter(e[1], e[2], e[3], e[4], why, e[6])
        if e[6] then
          dead_letter_behind(e[6], why)
          call('HDEL', groups, e[6])
        end
      end
      call('DEL', parked .. ':' .. name)
      call('HDEL', parked, name)
      call('HDEL', unknown, name)
    end
  end
  return {cursor, found, move_due(), call('HKEYS', parked)}
end

-- What this consumer was given and has not heard of, since the answer was lost with its connection. Arguments: count, then
-- the handles that it knows. Returns: handles, fields, claims and further attempts.
function functions.recover()
  local known, found = {}, {}
  for _ = 1, tonumber(arg()) do known[arg()] = true end
  for _, stream in ipairs({line, limited}) do
    local mark, from = stream == limited and '+' or '', '-'
    repeat
      local pending = call('XPENDING', stream, 'workers', from, '+', 500, me)
      for _, entry in ipairs(pending) do
        local handle = mark .. entry[1]
        local flat = not known[handle] and call('XRANGE', stream, entry[1], entry[1])[1]
        if flat then found[#found + 1] = {handle, flat[2], entry[4], tonumber(call('HGET', attempts, handle) or '0')} end
        from = '(' .. entry[1]
      end
    until #pending < 500
  end
  return found
end

-- What of limited names may be begun. Arguments: count, then handle, name, limit, 1 where it is skipped rather than waits.
-- Returns of each: 1 with a slot; 2 surplus; 0 when it went to the list of its name, behind all that waits there.
function functions.admit()
  local verdicts = {}
  for _ = 1, tonumber(arg()) do
    local handle, name, limit, is_skipped = arg(), arg(), tonumber(arg()), arg() == '1'
    local is_next = split(handle) == limited or call('EXISTS', parked .. ':' .. name) == 0
    local verdict = 0
    if call('ZSCORE', slots(name), handle) or (is_next and has_free_slot(name, limit)) then
      hold_slot(name, handle)
      verdict = 1
    elseif is_skipped then
      verdict = 2
    else
      park(handle)
    end
    verdicts[#verdicts + 1] = verdict
  end
  return verdicts
end

-- Renew the leases of what is held: a plain XCLAIM would take back what another process has by now. Arguments: count,
-- then handles; slots (name, handle), with their number before them. Returns: those that are no longer this consumer's.
function functions.heartbeat()
  local lost = {}
  stay_alive()
  for _ = 1, tonumber(arg()) do
    local handle = arg()
    if claims(handle) then
      local stream, entry = split(handle)
      call('XCLAIM', stream, 'workers', me, 0, entry, 'JUSTID')
    else
      lost[#lost + 1] = handle
    end
  end
  for _ = 1, tonumber(arg()) do
    local name, handle = arg(), arg()
    if claims(handle) then hold_slot(name, handle) end
  end
  return lost
end

-- Make what is missing, and forget consumers that are gone and hold nothing.
function functions.open()
  for _, stream in ipairs({line, limited}) do
    local found = false
    if call('EXISTS', stream) == 1 then
      for _, group in ipairs(call('XINFO', 'GROUPS', stream)) do found = found or group[2] == 'workers' end
    end
    if not found then call('XGROUP', 'CREATE', stream, 'workers', '0', 'MKSTREAM') end
  end
  stay_alive()
  for _, stream in ipairs({line, limited}) do
    for _, consumer in ipairs(call('XINFO', 'CONSUMERS', stream, 'workers')) do
      local name, pending = consumer[2], consumer[4]
      if pending == 0 and name ~= '-' and call('EXISTS', prefix .. ':alive:' .. name) == 0 then
        call('XGROUP', 'DELCONSUMER', stream, 'workers', name)
      end
    end
  end
end

-- Give back what is claimed: an attempt, unless it is parked, and no reason to take it for poison. Dedupe keys that
-- this opening has claimed stay so. Arguments: for how long, in ms; count, then handles that are attempts; slots (name,
-- handle), with their number before them.
function functions.close()
  local alive, held = arg(), {}
  for _ = 1, tonumber(arg()) do held[arg()] = true end
  free_slots()
  for _, stream in ipairs({line, limited}) do
    local mark = stream == limited and '+' or ''
    while true do
      local pending = call('XPENDING', stream, 'workers', '-', '+', 500, me)
      if #pending == 0 then break end
      for _, entry in ipairs(pending) do
        local handle, times = mark .. entry[1], entry[4]
        if held[handle] then
          call('HINCRBY', attempts, handle, 1)
          times = times - 1
        end
        claim_again(handle, '-', lease * 1000, times)
        if not fields(handle) then call('XACK', stream, 'workers', entry[1]) end
      end
    end
    call('XGROUP', 'DELCONSUMER', stream, 'workers', me)
  end
  call('SET', prefix .. ':alive:' .. me, '', 'PX', alive)
end

-- Arguments: an entry. Returns: whether it has been handed out, or is no more; whether this consumer holds anything;
-- names with a list of their own.
function functions.passed()
  local wanted, delivered = arg(), '0-0'
  for _, group in ipairs(call('XINFO', 'GROUPS', line)) do
    if group[2] == 'workers' then delivered = group[8] end
  end
  local function parts(id)
    local ms, number = string.match(id, '(%d+)-(%d+)')
    return tonumber(ms), tonumber(number)
  end
  local ms, number = parts(delivered)
  local wanted_ms, wanted_number = parts(wanted)
  local passed = not fields(wanted) or ms > wanted_ms or (ms == wanted_ms and number >= wanted_number)
  local held = #call('XPENDING', line, 'workers', '-', '+', 1, me) + #call('XPENDING', limited, 'workers', '-', '+', 1, me)
  return {passed and 1 or 0, held, call('HKEYS', parked)}
end

-- Returns: how many messages wait for a process; the data of the first in the streams and in up to 100 lists.
function functions.backlog()
  local waiting, first = 0, {}
  for _, stream in ipairs({line, limited}) do
    waiting = waiting + call('XLEN', stream)
    for _, consumer in ipairs(call('XPENDING', stream, 'workers')[4] or {}) do
      if consumer[1] ~= '-' then waiting = waiting - tonumber(consumer[2]) end
    end
    local delivered, given_back = '0-0', call('XPENDING', stream, 'workers', '-', '+', 1, '-')[1]
    for _, group in ipairs(call('XINFO', 'GROUPS', stream)) do
      if group[2] == 'workers' then delivered = group[8] end
    end
    local entry = given_back and call('XRANGE', stream, given_back[1], given_back[1])[1]
    entry = entry or call('XRANGE', stream, '(' .. delivered, '+', 'COUNT', 1)[1]
    if entry then first[#first + 1] = entry[2][6] end
  end
  local names = call('HGETALL', parked)
  for i = 1, #names, 2 do
    waiting = waiting + tonumber(names[i + 1])
    local head = i < 200 and call('LINDEX', parked .. ':' .. names[i], 0)
    if head then first[#first + 1] = cmsgpack.unpack(head)[3] end
  end
  waiting = waiting + tonumber(call('HGET', groups, '') or '0')
  return {waiting, first}
end

-- KEYS[2]: a dedupe key. Arguments: its value; time to live in ms.
function functions.claim_key() return take_key(KEYS[2], arg(), arg()) and 1 or 0 end

-- KEYS[2]: a dedupe key.
function functions.release_key() return call('DEL', KEYS[2]) end

-- Returns: id, name, data, attempts, why, when (Unix ms) of each.
function functions.list_dead()
  local result = {}
  for _, id in ipairs(call('ZRANGE', order, 0, -1)) do
    local packed = call('HGET', dead, id)
    if packed then -- else it was evicted
      local e = cmsgpack.unpack(packed)
      result[#result + 1] = {id, e[1], e[2], e[3], e[4], e[5]}
    end
  end
  return result
end

-- What waits in lists and for its time. Arguments: how many are wanted; count, then names. Returns: name, data of each.
function functions.list_waiting()
  local wanted, result = tonumber(arg()), {}
  local function take(packed)
    local e = cmsgpack.unpack(packed)
    result[#result + 1] = {e[2], e[3]}
  end
  for _ = 1, tonumber(arg()) do
    for _, packed in ipairs(call('LRANGE', parked .. ':' .. arg(), 0, wanted - 1)) do take(packed) end
  end
  for _, packed in ipairs(call('ZRANGE', later, 0, wanted - 1)) do take(packed) end
  return result
end

return functions[ARGV[1]]()
