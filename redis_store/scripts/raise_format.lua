-- Raise the mark of a user's format version, unless it is newer, or the user has no data.
--
-- KEYS[1]  mark
-- KEYS[2]  registry (set)
-- ARGV[1]  the new mark
-- ARGV[2]  its number
-- Reply    1; 0 if nothing was changed

if redis.call('EXISTS', KEYS[2]) == 0 then return 0 end
local old = redis.call('GET', KEYS[1])
if tonumber(string.match(old or '', '^{"format":(%d+)') or 1) >= tonumber(ARGV[2]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
return 1
