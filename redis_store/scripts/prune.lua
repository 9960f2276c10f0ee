-- Remove empty namespaces from the registry, after checking each in the same step.
--
-- KEYS[1]   registry (set)
-- KEYS[2..] data hashes, about 500 at most
-- ARGV      the namespaces' names, as in the registry, in the order of the data hashes
-- Reply     number of names removed

local gone = 0
for i = 2, #KEYS do
  if holds(KEYS[i]) == 0 then gone = gone + redis.call('SREM', KEYS[1], ARGV[i - 1]) end
end
if gone > 0 and redis.pcall('EXISTS', KEYS[1]) == 0 then
  redis.pcall('UNLINK', string.sub(KEYS[1], 1, -11) .. 'format') -- the mark, see prelude.lua
end
return gone
