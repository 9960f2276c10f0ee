-- Count entries of a change log behind a position, in one step.
--
-- KEYS[1]  log (stream)
-- ARGV[1]  id of an entry
-- ARGV[2]  entries to count, at most
-- Reply    {number of entries after it; id of the last of them, or ''}

local page = redis.pcall('XRANGE', KEYS[1], '(' .. ARGV[1], '+', 'COUNT', ARGV[2])
if page.err then return {0, ''} end
return {#page, #page > 0 and page[#page][1] or ''}
