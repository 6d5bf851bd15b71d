-- Begins a lease, and ends our last one: whatever of it is still on its way is refused. KEYS[3]: the
-- number of our last batch. ARGV: the new lease, the last one, its length in microseconds, the name of
-- this server's run, and the name of a generation if one begins.

local is_fresh = not gen or redis.call('HGET', KEYS[1], 'run') ~= ARGV[4]
if is_fresh then
  redis.call('HSET', KEYS[1], 'gen', ARGV[5], 'run', ARGV[4], 'began', text(at), 'empty', gen and 0 or 1)
  gen = ARGV[5]
end
redis.call('ZREM', KEYS[2], ARGV[2])
tell(ARGV[1], tonumber(ARGV[3]))
local first = redis.call('HMGET', KEYS[1], 'began', 'empty')
local age_ms = math.floor(math.max(at - tonumber(first[1] or '0'), 0) / 1000)
return { 'hello', unix, gen, age_ms, first[2] or '0', redis.call('GET', KEYS[3]) or '0' }
