-- Counts what was used and gives back what was held, once for each number, and keeps the records of it until
-- they are on a disk. KEYS[3]: the number of our last batch; the fourth and fifth: the records by name, and
-- when they came; from the sixth: the limits'. ARGV: our lease, the batch's number, how many records there
-- are, the name and text of each, then for each entry 'account', released, used, begin, end or 'back',
-- nanoseconds, until (two) or 'charge', nanoseconds.

-- So many are kept, and for so long.
local RECORDS_MAX = 100000
local RECORDS_KEPT = 604800

if not may_speak() then
  return { 'lost' }
end
local is_new = tonumber(ARGV[2]) > tonumber(redis.call('GET', KEYS[3]) or '0')
local records = tonumber(ARGV[3])
if is_new and records > 0 and redis.call('ZCARD', KEYS[5]) < RECORDS_MAX then
  for r = 1, records do
    redis.call('HSET', KEYS[4], ARGV[2 + 2 * r], ARGV[3 + 2 * r])
    redis.call('ZADD', KEYS[5], text(at), ARGV[2 + 2 * r])
  end
  redis.call('EXPIRE', KEYS[4], RECORDS_KEPT)
  redis.call('EXPIRE', KEYS[5], RECORDS_KEPT)
end
local reply, i = { 'settled', unix }, 4 + 2 * records
for k = 6, #KEYS do
  if ARGV[i] == 'account' then
    local found = account(KEYS[k], tonumber(ARGV[i + 3]), tonumber(ARGV[i + 4]))
    if is_new and not found.is_later then
      found.settled = math.min(found.settled + tonumber(ARGV[i + 2]), MOST)
      write(found, math.max(found.mine - tonumber(ARGV[i + 1]), 0), tonumber(ARGV[i + 4]))
    end
    reply[#reply + 1] = found.window
    reply[#reply + 1] = found.settled
    reply[#reply + 1] = found.held
    i = i + 5
  else
    local step, nanos = 2, missing(KEYS[k])
    if ARGV[i] == 'back' then
      -- Of what has not come back by itself.
      step = 4
      if is_new then
        local later = lapse(tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3]))
        nanos = math.max(nanos - math.min(tonumber(ARGV[i + 1]), later), 0)
      end
    elseif is_new then
      nanos = math.min(nanos + tonumber(ARGV[i + 1]), LONGEST)
    end
    local s, ns = fill(KEYS[k], nanos)
    reply[#reply + 1] = nanos
    reply[#reply + 1] = s
    reply[#reply + 1] = ns
    i = i + step
  end
end
if is_new then
  redis.call('SET', KEYS[3], ARGV[2], 'EX', 604800)
end
return reply
