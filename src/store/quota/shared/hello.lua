-- Begins a lease in place of our last ones: whatever of them is still on its way is refused. KEYS[3]: the
-- number of our last batch. ARGV: the new lease, its length in microseconds, the name of this server's run,
-- the name of a generation if one begins, and the last ones.

local is_fresh = not gen or redis.call('HGET', KEYS[1], 'run') ~= ARGV[3]
if is_fresh then
  redis.call('HSET', KEYS[1], 'gen', ARGV[4], 'run', ARGV[3], 'began', text(at), 'empty', gen and 0 or 1)
  gen = ARGV[4]
end
for i = 5, #ARGV do
  local ends = redis.call('ZSCORE', KEYS[2], ARGV[i])
  if ends then
    redis.call('ZREM', KEYS[2], ARGV[i])
    redis.call('ZADD', KEYS[2], ends, replaced(ARGV[i]))
  end
end
tell(ARGV[1], tonumber(ARGV[2]))
local first = redis.call('HMGET', KEYS[1], 'began', 'empty')
local age_ms = math.floor(math.max(at - tonumber(first[1] or '0'), 0) / 1000)
return { 'hello', unix, gen, age_ms, first[2] or '0', redis.call('GET', KEYS[3]) or '0' }
