-- Measure the values of some fields, and read them if they are small together.
--
-- KEYS[1]   data hash
-- ARGV[1]   read the values if they take at most this many bytes together; '0' reads nothing
-- ARGV[2]   '1' to read the fields' times to live too, or ''
-- ARGV[3..] the fields
-- Reply     {total bytes, array of values or false, array of times to live as HPTTL returns them or false};
--           a missing field counts 0 bytes

local data, fields = KEYS[1], {unpack(ARGV, 3)}
local bytes = 0
for _, field in ipairs(fields) do
  bytes = bytes + redis.call('HSTRLEN', data, field)
end
if ARGV[1] == '0' or bytes > tonumber(ARGV[1]) then return {bytes, false, false} end
local ttls = ARGV[2] == '1' and redis.call('HPTTL', data, 'FIELDS', #fields, unpack(fields))
return {bytes, redis.call('HMGET', data, unpack(fields)), ttls}
