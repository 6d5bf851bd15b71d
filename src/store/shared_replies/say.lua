-- Says what is to be removed, and removes one reply at once where one is meant. KEYS[4]: the state, KEYS[5]:
-- the journal. ARGV: the prefix, the name of a generation if one begins, what is said, how much of the
-- journal is kept, and perhaps a reply's name. Gives as of when that is said, and how
-- many went.

if redis.call('EXISTS', KEYS[4]) == 0 then
  redis.call('DEL', KEYS[5])
  redis.call('HSET', KEYS[4], 'generation', ARGV[2], 'seq', 0)
end
local seq = tonumber(redis.call('HGET', KEYS[4], 'seq') or '0') + 1
redis.call('RPUSH', KEYS[5], string.format('%d', seq) .. ' ' .. ARGV[3])
redis.call('LTRIM', KEYS[5], -tonumber(ARGV[4]), -1)
redis.call('HSET', KEYS[4], 'seq', string.format('%d', seq))
return { redis.call('HGET', KEYS[4], 'generation'), seq, #drop({ ARGV[5] }) }
