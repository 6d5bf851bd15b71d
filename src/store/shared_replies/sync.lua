-- What was said since. KEYS: the state, the journal. ARGV: the generation that is known, the number of the
-- last purge that was heard of, the name of a generation if one begins, and that of this server's run.
-- Another run may remember less than was said, and so does one that knows of fewer purges than were heard
-- of: then nothing counts that was kept before.

local known, heard, fresh, run = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local state = redis.call('HMGET', KEYS[1], 'generation', 'seq', 'run')
local generation, seq = state[1], tonumber(state[2] or '0')
local is_other = run ~= '' and state[3] and state[3] ~= run
local begins = 0
if not generation or is_other or (generation == known and seq < heard) then
  generation, seq, begins = fresh, 0, 1
  redis.call('DEL', KEYS[2])
  redis.call('HSET', KEYS[1], 'generation', generation, 'seq', seq, 'run', run)
elseif run ~= '' and not state[3] then
  redis.call('HSET', KEYS[1], 'run', run)
end
local said = {}
local from = generation == known and heard or 0
if seq > from then
  said = redis.call('LRANGE', KEYS[2], -(seq - from), -1)
end
return { generation, seq, begins, said }
