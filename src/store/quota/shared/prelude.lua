-- What all scripts begin with. KEYS[1] is the state, KEYS[2] the leases by the time at which they end.
--
-- Whole numbers only. Instants are seconds and nanoseconds since 1970, since one number of nanoseconds
-- would be more than a double holds; what lies between two instants is nanoseconds, up to LONGEST.

local LONGEST = 4503599627370496 -- 52 days
local MOST = 9007199254740991
-- Windows that begin no further apart are the same, in another time zone.
local ZONES_APART = 43200
-- One of those on which clocks are set back.
local LONGEST_DAY = 90000
-- An account is kept so long after its window, for exchanges that are not over.
local KEPT_AFTER = 172800

local function text(number)
  return string.format('%.0f', number)
end

local clock = redis.call('TIME')
local unix = tonumber(clock[1])
local state = redis.call('HMGET', KEYS[1], 'gen', 'beat', 'back', 'quiet')
local gen = state[1]
local beat = tonumber(state[2] or '0')
-- By how much this server's clock was set back so far: ours never goes back. In microseconds, as `at`.
local back = tonumber(state[3] or '0')
local at = unix * 1000000 + tonumber(clock[2]) + back
local now_s = math.floor(at / 1000000)
local now_ns = (at - now_s * 1000000) * 1000
-- Nobody said for so long that it lives that it was this server that was away: nobody's lease ended.
local is_quiet = at - beat > tonumber(state[4] or '0')
local mine = ARGV[1]

local function lapse(s, ns)
  local nanos = (s - now_s) * 1000000000 + (ns - now_ns)
  return math.max(0, math.min(nanos, LONGEST))
end

local function instant(ahead)
  local whole = math.floor(ahead / 1000000000)
  local s, ns = now_s + whole, now_ns + (ahead - whole * 1000000000)
  if ns >= 1000000000 then
    s, ns = s + 1, ns - 1000000000
  end
  return s, ns
end

-- Of a limit that refills: how long until it is full again.
local function missing(key)
  local full_at = redis.call('GET', key)
  if not full_at then
    return 0
  end
  local s, ns = string.match(full_at, '^(%d+):(%d+)$')
  return lapse(tonumber(s), tonumber(ns))
end

local function fill(key, nanos)
  if nanos <= 0 then
    redis.call('DEL', key)
    return now_s, now_ns
  end
  local s, ns = instant(math.min(nanos, LONGEST))
  redis.call('SET', key, text(s) .. ':' .. text(ns), 'PX', text(math.floor(nanos / 1000000) + 1000))
  return s, ns
end

local alive = {}

-- What a lease is called that another of the same replica took over from: it holds to its end, so that what
-- it holds is nobody else's until the other has said that it holds that, and may not speak.
local function replaced(lease)
  return 'replaced:' .. lease
end

-- Whether a lease holds. One that has ended is removed, and with it all that is held under it.
local function lives(lease)
  if alive[lease] == nil then
    local name = lease
    local ends = redis.call('ZSCORE', KEYS[2], name)
    if not ends then
      name = replaced(lease)
      ends = redis.call('ZSCORE', KEYS[2], name)
    end
    local is_over = ends and tonumber(ends) < at and not is_quiet and lease ~= mine
    if is_over then
      redis.call('ZREM', KEYS[2], name)
    end
    alive[lease] = ends and not is_over or false
  end
  return alive[lease]
end

-- Whether our lease may speak.
local function may_speak()
  return gen and redis.call('ZSCORE', KEYS[2], mine)
end

-- Of a limit that does not refill: what was settled, and what is held by whom, in the window that begins
-- and ends so, or in the one that is there where that is the later one.
local function account(key, begin, finish)
  local fields = redis.call('HGETALL', key)
  local window
  for i = 1, #fields, 2 do
    if fields[i] == 'window' then
      window = tonumber(fields[i + 1])
    end
  end
  -- A replica whose clock was ahead while it was alone: what it used is of the window that there is, or of
  -- the day that is so many days before. Months are not so many days before; where there is none, it is not
  -- known which it was.
  local is_lost = false
  if begin > unix and finish > begin then
    local length = finish - begin
    is_lost = not window and length > LONGEST_DAY
    begin = window or begin - math.ceil((begin - unix) / length) * length
  end
  local found = { key = key, window = begin, settled = 0, held = 0, mine = 0, is_later = is_lost }
  if not window then
    return found
  end
  if begin > window + ZONES_APART then
    redis.call('DEL', key)
    return found
  end
  found.is_later = window > begin + ZONES_APART
  found.window = window
  for i = 1, #fields, 2 do
    local lease = string.match(fields[i], '^held:(.*)$')
    if fields[i] == 'settled' then
      found.settled = tonumber(fields[i + 1])
    elseif lease and lives(lease) then
      local units = tonumber(fields[i + 1])
      found.held = found.held + units
      if lease == mine then
        found.mine = units
      end
    elseif lease then
      redis.call('HDEL', key, fields[i])
    end
  end
  return found
end

-- Writes it with so much held by us.
local function write(found, held, finish)
  found.held = found.held - found.mine + held
  found.mine = held
  if found.settled == 0 and found.held == 0 then
    redis.call('DEL', found.key)
    return
  end
  redis.call('HSET', found.key, 'window', text(found.window), 'settled', text(found.settled))
  if held > 0 then
    redis.call('HSET', found.key, 'held:' .. mine, text(held))
  else
    redis.call('HDEL', found.key, 'held:' .. mine)
  end
  if finish > 0 then
    redis.call('EXPIRE', found.key, text(math.max(finish - unix, 0) + KEPT_AFTER))
  end
end

-- That somebody lives. After a silence everybody's lease begins anew.
local function tell(lease, micros)
  if at < beat then
    back = back + beat - at
    at = beat
    redis.call('HSET', KEYS[1], 'back', text(back))
  elseif is_quiet then
    for _, other in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
      redis.call('ZADD', KEYS[2], 'XX', text(at + micros), other)
    end
  else
    redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', '(' .. text(at))
  end
  redis.call('HSET', KEYS[1], 'beat', text(at), 'quiet', text(math.floor(micros / 2)))
  redis.call('ZADD', KEYS[2], text(at + micros), lease)
end

