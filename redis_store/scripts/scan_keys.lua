-- Read a page of a namespace's keys without their values, on servers before Redis 7.4, whose HSCAN has no NOVALUES.
--
-- KEYS[1]  data hash
-- ARGV[1]  cursor
-- ARGV[2]  glob pattern
-- ARGV[3]  COUNT of HSCAN
-- Reply    {next cursor, array of fields}

local page = redis.call('HSCAN', KEYS[1], ARGV[1], 'MATCH', ARGV[2], 'COUNT', ARGV[3])
local fields = {}
for i = 1, #page[2], 2 do fields[#fields + 1] = page[2][i] end
return {page[1], fields}
