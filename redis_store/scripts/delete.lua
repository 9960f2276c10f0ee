-- Delete fields of a namespace: data, info and, with the last field, the registry entry. Append log entries.
--
-- KEYS[1-5], ARGV[1-4]  see prelude.lua and remove.lua
-- KEYS[6]   a tag that the fields carry, or nothing (sorted set); their entries in it go in the same step, so that a later
--           tagging is not undone
-- ARGV[5]   id of the transaction; with more than 1,000 fields the log has several entries, its parts
-- ARGV[6..] the fields, any number
-- Reply     how many of them existed

local PART = 1000 -- unpack fails at 8,000 arguments

local tag = KEYS[6]
if tag then
  call('ZCARD', tag)
  must_be_allowed('ZREM', tag, 'member')
end
-- An expired field that the server has not removed yet does not exist, whatever HDEL replies (1 on Redis, 0 on Valkey).
local present = {}
for i = 6, #ARGV do
  if call('HEXISTS', data, ARGV[i]) == 1 then present[#present + 1] = ARGV[i] end
end
look_around()
if #present > 0 then must_be_allowed_to_remove(#present) end

forget(ARGV, 6)
if tag then
  for i = 6, #ARGV do call('ZREM', tag, #name .. ':' .. name .. ':' .. ARGV[i]) end
end
if #present == 0 then return 0 end

local parts = math.ceil(#present / PART)
for part = 1, parts do
  local first, last = (part - 1) * PART + 1, math.min(part * PART, #present)
  local events = remove(present, first, last)
  if watched then
    local told = {}
    for i = first, last do
      told[#told + 1] = present[i]
      told[#told + 1] = 'd'
    end
    local tx = parts > 1 and '"tx":["' .. ARGV[5] .. '",' .. part .. ',' .. parts .. '],' or ''
    tell(events, '', told, tx)
  end
end
return #present
