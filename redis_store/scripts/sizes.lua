-- Measure the values of some fields, and read them if they are small together.
--
-- KEYS[1]   data hash
-- ARGV[1]   read the values if they take at most this many bytes together; '0' reads nothing
-- ARGV[2]   '1' to read the fields' times to live too, or ''
-- ARGV[3..] the fields
-- Reply     {total bytes, array of values or false, array of times to live as HPTTL returns them or false};
--           a missing field counts 0 bytes

local MOST_FIELDS = 3800 -- some servers take no more arguments

local data, bytes = KEYS[1], 0
for i = 3, #ARGV do
  bytes = bytes + redis.call('HSTRLEN', data, ARGV[i])
end
if ARGV[1] == '0' or bytes > tonumber(ARGV[1]) or #ARGV > MOST_FIELDS then return {bytes, false, false} end
local fields = {unpack(ARGV, 3)}
local ttls = ARGV[2] == '1' and redis.call('HPTTL', data, 'FIELDS', #fields, unpack(fields))
return {bytes, redis.call('HMGET', data, unpack(fields)), ttls}
