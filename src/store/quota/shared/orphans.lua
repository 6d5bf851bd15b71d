-- Records that were kept for longer than a lease: whoever was to write them died, or cannot. KEYS[3] and
-- KEYS[4]: the records by name, and when they came. ARGV: our lease, its length in microseconds, how many.

local reply = { 'orphans' }
local names = redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', text(at - tonumber(ARGV[2])), 'LIMIT', 0, ARGV[3])
for _, name in ipairs(names) do
  local record = redis.call('HGET', KEYS[3], name)
  if record then
    reply[#reply + 1] = name
    reply[#reply + 1] = record
  else
    redis.call('ZREM', KEYS[4], name)
  end
end
return reply
