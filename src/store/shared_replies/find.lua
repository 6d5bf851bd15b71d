-- A reply, and how purges stand at the same moment. KEYS: the state, the reply's own key.

local state = redis.call('HMGET', KEYS[1], 'generation', 'seq')
local reply = redis.call('HMGET', KEYS[2], 'generation', 'seq', 'value')
return {
  state[1] or '', state[2] or '0', reply[1] or '', reply[2] or '0', reply[3] or '',
  redis.call('PTTL', KEYS[2])
}
