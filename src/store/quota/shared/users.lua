-- Tells of users' limits, so that whoever asks finds those nearest to their end. KEYS from the third: what is
-- left of each in millionths, until when that says something, and the limits themselves, all by name; from the
-- sixth: where each is counted, which is its name. ARGV: our lease, how many are kept, then for each how much is
-- left, for how many seconds that says something, and the limit.

local WHOLE = 1000000
-- Of what is over, in one call.
local OVER_MAX = 1000

local shares, untils, limits = KEYS[3], KEYS[4], KEYS[5]

local function remove(name)
  redis.call('ZREM', shares, name)
  redis.call('ZREM', untils, name)
  redis.call('HDEL', limits, name)
end

for _, name in ipairs(redis.call('ZRANGEBYSCORE', untils, '-inf', unix, 'LIMIT', 0, OVER_MAX)) do
  remove(name)
end
local i = 3
for k = 6, #KEYS do
  local name, share = KEYS[k], tonumber(ARGV[i])
  -- Of whom nothing is counted nothing is kept: somebody may have been forgotten meanwhile.
  if share >= WHOLE or redis.call('EXISTS', name) == 0 then
    remove(name)
  else
    redis.call('ZADD', shares, text(share), name)
    redis.call('ZADD', untils, text(unix + tonumber(ARGV[i + 1])), name)
    redis.call('HSET', limits, name, ARGV[i + 2])
  end
  i = i + 3
end
for _, name in ipairs(redis.call('ZRANGE', shares, tonumber(ARGV[2]), -1)) do
  remove(name)
end
-- Should nobody tell any more, all of it goes with the last.
local last = redis.call('ZRANGE', untils, -1, -1, 'WITHSCORES')[2]
for k = 3, 5 do
  redis.call('EXPIREAT', KEYS[k], text(tonumber(last or '0')))
end
return { 'told', unix }
