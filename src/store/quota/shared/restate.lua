-- What we hold, and what we know at least to have been settled. KEYS from the third: the accounts'. ARGV:
-- our lease, then for each held, settled, begin, end.

if not gen or not lives(mine) then
  return { 'lost' }
end
local reply, i = { 'restated', unix }, 2
for k = 3, #KEYS do
  local found = account(KEYS[k], tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3]))
  if not found.is_later then
    found.settled = math.max(found.settled, tonumber(ARGV[i + 1]))
    write(found, tonumber(ARGV[i]), tonumber(ARGV[i + 3]))
  end
  reply[#reply + 1] = found.window
  reply[#reply + 1] = found.settled
  reply[#reply + 1] = found.held
  i = i + 4
end
return reply
