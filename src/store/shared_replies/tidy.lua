-- Removes what is over, and some of the rest where Redis has too little room for what else it counts. KEYS
-- behind the first three: the state, the journal. ARGV: the prefix, how many go, and how long what nobody
-- asks for any more is kept, in seconds. Gives how many replies there are, and what they take.

drop_expired(now_ms(), 256)
local most = tonumber(ARGV[2])
if most > 0 then
  drop(redis.call('ZRANGE', over, 0, most - 1))
end
local keep = tonumber(ARGV[3])
for _, key in ipairs(KEYS) do
  local rest = redis.call('TTL', key)
  if rest > -2 and rest < keep / 2 then
    redis.call('EXPIRE', key, keep)
  end
end
return { redis.call('ZCARD', over), total() }
