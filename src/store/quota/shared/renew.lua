-- That we live, and have said what we hold. ARGV: our lease, its length in microseconds, and those that it took
-- over from: they end.

if not may_speak() then
  return { 'lost' }
end
for i = 3, #ARGV do
  redis.call('ZREM', KEYS[2], replaced(ARGV[i]))
end
tell(mine, tonumber(ARGV[2]))
return { 'renewed', unix }
