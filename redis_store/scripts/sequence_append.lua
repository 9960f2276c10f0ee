-- Append items to a sequence; with a bound, remove the first ones. Follows prelude.lua and sequence.lua, and wraps write.lua (with
-- its own prefixes) in a function: it turns its arguments into those of write.lua.
--
-- KEYS[1-4], ARGV[1-5]  see prelude.lua and info_text.lua
-- ARGV[6]   time to live of the items, in ms, or ''
-- ARGV[7]   most items that stay, or ''
-- ARGV[8..] the items, about 1,000 at most
-- Reply     the position for the next item
-- Errors    UNSUPPORTED: the server has no hash field expiry

local REMOVED_AT_ONCE = 10000 -- first items, if a long sequence is bounded for the first time: later calls remove the others
local PART = 1000

local first, following = ends_of(data, info)
local ttl_ms, most, count = ARGV[6], tonumber(ARGV[7]), #ARGV - 7
local skipped = most and math.max(0, count - most) or 0
local items = {}
for i = 1, count do items[i] = ARGV[7 + i] end
for i = #ARGV, 7, -1 do ARGV[i] = nil end
ARGV[7] = 'keep'
for i = skipped + 1, count do
  ARGV[#ARGV + 1] = name_of(following + i - 1)
  ARGV[#ARGV + 1] = items[i]
end
following = following + count
if following > MOST_POSITION then return redis.error_reply('ERR the sequence has a key beyond the last position') end
must_be_allowed('HSET', info, '', 'ends')
if most then
  must_be_allowed('HDEL', data, 'field')
  must_be_allowed('HDEL', info, 'field')
end

local function write()
