-- Tells how many bytes the values of some fields take together, and reads them where that is little.
--
-- KEYS  1 data hash
-- ARGV  1 what is little, in bytes; 0 to read nothing   2 '1' to read how long each lives, or ''   3... the fields
-- Reply {bytes, the array of values or false, the array of times to live as of HPTTL or false}; an absent field takes nothing

local data, fields = KEYS[1], {unpack(ARGV, 3)}
local bytes = 0
for _, field in ipairs(fields) do
  bytes = bytes + redis.call('HSTRLEN', data, field)
end
if ARGV[1] == '0' or bytes > tonumber(ARGV[1]) then return {bytes, false, false} end
local ttls = ARGV[2] == '1' and redis.call('HPTTL', data, 'FIELDS', #fields, unpack(fields))
return {bytes, redis.call('HMGET', data, unpack(fields)), ttls}
