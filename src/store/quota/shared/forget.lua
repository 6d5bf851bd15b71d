-- Forgets what was used of one limit. KEYS[1]: where it is counted. What is held for exchanges under way
-- stays until they end.

local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'none' then
  return 0
end
if kind == 'hash' then
  for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
    if string.sub(field, 1, 5) == 'held:' then
      redis.call('HSET', KEYS[1], 'settled', '0')
      return 1
    end
  end
end
redis.call('DEL', KEYS[1])
return 1
