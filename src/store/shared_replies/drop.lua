-- Removes replies, and gives the names of those that were there. ARGV: the prefix, and their names.

local names = {}
for at = 2, #ARGV do
  names[#names + 1] = ARGV[at]
end
return drop(names)
