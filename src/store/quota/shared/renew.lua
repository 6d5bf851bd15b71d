-- That we live. ARGV: our lease, its length in microseconds.

if not gen or not lives(mine) then
  return { 'lost' }
end
tell(mine, tonumber(ARGV[2]))
return { 'renewed', unix }
