-- Every script's first three keys are where the replies are listed: when each is over, what each is, and
-- what all take. ARGV[1] is what the name of a reply's own key begins with.

local over, traits, bytes, prefix = KEYS[1], KEYS[2], KEYS[3], ARGV[1]

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local function size_of(text)
  return tonumber(string.match(text or '', '^%d+') or '0')
end

-- What all take: added up anew where the sum was given up.
local function total()
  local sum = redis.call('GET', bytes)
  if sum then
    return tonumber(sum)
  end
  sum = 0
  for _, text in ipairs(redis.call('HVALS', traits)) do
    sum = sum + size_of(text)
  end
  if sum > 0 then
    redis.pcall('SET', bytes, sum)
  end
  return sum
end

-- Removes replies, and gives those that were there, and what all of them took. A Redis that is full takes no new sum: then there is none.
local function drop(names)
  local gone, less = {}, 0
  for _, name in ipairs(names) do
    if redis.call('DEL', prefix .. name) == 1 then
      gone[#gone + 1] = name
    end
    redis.call('ZREM', over, name)
    less = less + size_of(redis.call('HGET', traits, name))
    redis.call('HDEL', traits, name)
  end
  if less > 0 and redis.call('EXISTS', bytes) == 1 then
    local told = redis.pcall('DECRBY', bytes, less)
    if type(told) == 'table' and told.err then
      redis.call('DEL', bytes)
    end
  end
  return gone, less
end

local function drop_expired(at, most)
  drop(redis.call('ZRANGEBYSCORE', over, '-inf', at, 'LIMIT', 0, most))
end
