-- Read a page of a namespace's keys without their values, on servers before Redis 7.4, whose HSCAN has no NOVALUES.
--
-- KEYS[1]  data hash
-- ARGV[1]  cursor
-- ARGV[2]  glob pattern
-- ARGV[3]  COUNT of HSCAN, at most
-- ARGV[4]  number of fields that HKEYS may return at once
-- Reply    {next cursor, array of fields}; false if values are big and HKEYS may return the fields, which copies no values

local PAGE_BYTES = 1048576
local MOST_BYTES = 16777216 -- a namespace of no more holds no value whose copy here takes long
local NAME_BYTES = 50331648 -- of names that HKEYS returns at once, about
local SAMPLE = 16

-- The values come along here, so pages of big ones are smaller.
local fields = redis.call('HLEN', KEYS[1])
local bytes = redis.pcall('MEMORY', 'USAGE', KEYS[1], 'SAMPLES', fields <= tonumber(ARGV[4]) and 0 or 1000)
if type(bytes) == 'number' and bytes > MOST_BYTES and fields <= tonumber(ARGV[4]) then
  local some, size = redis.call('HRANDFIELD', KEYS[1], SAMPLE), 0
  for _, name in ipairs(some) do size = size + #name end
  if size * fields / #some <= NAME_BYTES then return false end
end
local count = tonumber(ARGV[3])
if type(bytes) == 'number' then count = math.max(1, math.min(count, math.floor(PAGE_BYTES * fields / bytes))) end

local page = redis.call('HSCAN', KEYS[1], ARGV[1], 'MATCH', ARGV[2], 'COUNT', count)
local names = {}
for i = 1, #page[2], 2 do names[#names + 1] = page[2][i] end
return {page[1], names}
