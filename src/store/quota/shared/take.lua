-- Takes from all limits or from none. KEYS from the third: the limits'. ARGV: our lease, then for each
-- limit 'refills', time of the units, depth or 'account', units, amount, begin, end.

if not may_speak() then
  return { 'lost' }
end
local parts, fits, i = {}, true, 2
for k = 3, #KEYS do
  local part = {}
  if ARGV[i] == 'refills' then
    part.time, part.missing = tonumber(ARGV[i + 1]), missing(KEYS[k])
    fits = fits and (part.time == 0 or part.missing + part.time <= tonumber(ARGV[i + 2]))
    i = i + 3
  else
    local begin = tonumber(ARGV[i + 3])
    part.units, part.finish = tonumber(ARGV[i + 1]), tonumber(ARGV[i + 4])
    if unix < begin or (part.finish > 0 and unix >= part.finish) then
      return { 'window', unix }
    end
    part.account = account(KEYS[k], begin, part.finish)
    local left = tonumber(ARGV[i + 2]) - part.account.settled - part.account.held
    fits = fits and part.units <= math.max(left, 0)
    i = i + 5
  end
  parts[k] = part
end
local reply = { fits and 'taken' or 'spent', unix }
for k = 3, #KEYS do
  local part = parts[k]
  if part.account then
    if fits and part.units > 0 then
      write(part.account, part.account.mine + part.units, part.finish)
    end
    reply[#reply + 1] = part.account.window
    reply[#reply + 1] = part.account.settled
    reply[#reply + 1] = part.account.held
  else
    if fits and part.time > 0 then
      part.missing = part.missing + part.time
      fill(KEYS[k], part.missing)
    end
    local s, ns = instant(part.missing)
    reply[#reply + 1] = part.missing
    reply[#reply + 1] = s
    reply[#reply + 1] = ns
  end
end
return reply
