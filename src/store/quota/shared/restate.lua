-- What we hold, and what we know at least to have been settled. KEYS from the third: the accounts'. ARGV:
-- our lease, how many it took over from, these, then for each account held, settled, begin, end.

if not may_speak() then
  return { 'lost' }
end
local last = {}
for i = 1, tonumber(ARGV[2]) do
  last[i] = 'held:' .. ARGV[2 + i]
end
local reply, i = { 'restated', unix }, 3 + #last
for k = 3, #KEYS do
  local found = account(KEYS[k], tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3]))
  if not found.is_later then
    for _, held in ipairs(last) do
      found.held = found.held - tonumber(redis.call('HGET', KEYS[k], held) or '0')
      redis.call('HDEL', KEYS[k], held)
    end
    found.settled = math.max(found.settled, tonumber(ARGV[i + 1]))
    write(found, tonumber(ARGV[i]), tonumber(ARGV[i + 3]))
  end
  reply[#reply + 1] = found.window
  reply[#reply + 1] = found.settled
  reply[#reply + 1] = found.held
  i = i + 4
end
return reply
