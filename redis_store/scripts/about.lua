-- Read what belongs to keys beside their values.
--
-- KEYS[1]  data hash
-- KEYS[2]  info hash
-- ARGV     the fields, about 1,000 at most
-- Reply    {infos, when each field expires, in ms since 1970, -1 for never, -2 for a missing field; false if fields cannot expire}

local expiries = redis.pcall('HPEXPIRETIME', KEYS[1], 'FIELDS', #ARGV, unpack(ARGV))
return {redis.call('HMGET', KEYS[2], unpack(ARGV)), not expiries.err and expiries or false}
