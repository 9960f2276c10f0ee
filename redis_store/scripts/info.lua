-- Read the size, info and expiry of one key, all at one moment.
--
-- KEYS[1]  data hash
-- KEYS[2]  info hash
-- ARGV[1]  field
-- Reply    {bytes of the value, info or false, expiry in ms since 1970 or a negative number}; false if the field does not exist

if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return false end
local expiry = redis.pcall('HPEXPIRETIME', KEYS[1], 'FIELDS', 1, ARGV[1])
local at = -1
if not expiry.err then at = expiry[1] end
return {redis.call('HSTRLEN', KEYS[1], ARGV[1]), redis.call('HGET', KEYS[2], ARGV[1]), at}
