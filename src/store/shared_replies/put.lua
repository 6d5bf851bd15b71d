-- Keeps a reply, and gives what became of it. KEYS[4]: the state, KEYS[5]: its own key. ARGV: the prefix,
-- the generation and the number of the last purge that its replica knew of, its name, itself, what it is,
-- its time in ms, its size, what all may take, and the version that wrote it.

local state = redis.call('HMGET', KEYS[4], 'generation', 'seq')
if state[1] ~= ARGV[2] or state[2] ~= ARGV[3] then
  return 'stale'
end
local name, size, most, at = ARGV[4], tonumber(ARGV[8]), tonumber(ARGV[9]), now_ms()
drop_expired(at, 64)
drop({ name })
if size > most then
  return 'full'
end
local sum = total()
while sum + size > most do
  local first = redis.call('ZRANGE', over, 0, 15)
  if #first == 0 then
    sum = 0
    break
  end
  local _, less = drop(first)
  sum = sum - less
end
-- Listed first: should Redis be full from here on, nothing is kept that is not listed.
redis.call('HSET', traits, name, ARGV[8] .. ' ' .. ARGV[6])
redis.call('ZADD', over, at + tonumber(ARGV[7]), name)
redis.call('SET', bytes, sum + size)
redis.call('HSET', KEYS[5], 'generation', ARGV[2], 'seq', ARGV[3], 'value', ARGV[5],
  'version', ARGV[10])
redis.call('PEXPIRE', KEYS[5], ARGV[7])
return 'kept'
