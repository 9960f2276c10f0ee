-- Tells how many bytes the values of some fields take together.
--
-- KEYS  1 data hash
-- ARGV  the fields
-- Reply the sum; an absent field takes nothing

local bytes = 0
for _, field in ipairs(ARGV) do
  bytes = bytes + redis.call('HSTRLEN', KEYS[1], field)
end
return bytes
