-- Tells how big a namespace is, and reads it whole where it is so small that reading it here costs little.
--
-- KEYS  1 data hash
-- ARGV  1 'keys' or 'items'   2, 3 what is small: fields, bytes of memory
-- Reply {fields, bytes of memory (-1 where the server does not tell), the array of fields or of fields and values, or false}

local fields = redis.call('HLEN', KEYS[1])
if fields == 0 then return {0, 0, {}} end
local bytes = redis.pcall('MEMORY', 'USAGE', KEYS[1], 'SAMPLES', 32)
if type(bytes) ~= 'number' then bytes = -1 end
if fields > tonumber(ARGV[2]) or bytes > tonumber(ARGV[3]) then return {fields, bytes, false} end
return {fields, bytes, redis.call(ARGV[1] == 'keys' and 'HKEYS' or 'HGETALL', KEYS[1])}
