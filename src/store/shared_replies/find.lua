-- A reply, and how purges stand at the same moment. KEYS: the state, the reply's own key. ARGV: the version
-- whose replies can be read, and how large one may be.

local state = redis.call('HMGET', KEYS[1], 'generation', 'seq')
local reply = redis.call('HMGET', KEYS[2], 'generation', 'seq', 'version')
local value = ''
if reply[3] == ARGV[1] and redis.call('HSTRLEN', KEYS[2], 'value') <= tonumber(ARGV[2]) then
  value = redis.call('HGET', KEYS[2], 'value') or ''
end
return {
  state[1] or '', state[2] or '0', reply[1] or '', reply[2] or '0', value, redis.call('PTTL', KEYS[2])
}
