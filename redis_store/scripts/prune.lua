-- Takes namespaces that hold nothing any more out of the registry, each after a look that is so at this moment.
--
-- KEYS  1 registry set   2.. data hashes, about 500 at most
-- ARGV  the namespaces' names, as the registry holds them, in the same order
-- Reply how many were taken out

local holds = single_fields_expire(KEYS[2]) and holds_live or holds_any
local gone = 0
for i = 2, #KEYS do
  if holds(KEYS[i]) == 0 then gone = gone + redis.call('SREM', KEYS[1], ARGV[i - 1]) end
end
return gone
