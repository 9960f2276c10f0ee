-- Deletes fields of a namespace: data, info, log entries, and the registry's entry with the last field.
--
-- KEYS, ARGV 1 to 4  as in prelude.lua and remove.lua
-- ARGV  5 id of the transaction, for more than 1,000 fields: the log tells of them in parts
--       6.. the fields, any number
-- Reply how many of them were there
-- Errors  WRONGTYPE, NOPERM
--
-- The first write frees memory, so that a full server takes it, and then the rest of the script too.

local PART = 1000 -- unpack fails at 8,000

-- A field that has expired and is not yet reaped is not there, whatever HDEL would answer (1 on Redis, 0 on Valkey).
local present = {}
for i = 6, #ARGV do
  if call('HEXISTS', data, ARGV[i]) == 1 then present[#present + 1] = ARGV[i] end
end
local watched, computing = look()
if #present > 0 then must_be_allowed_to_remove(watched, #present) end

if computing then forget(ARGV, 6) end
if #present == 0 then return 0 end

local parts = math.ceil(#present / PART)
for part = 1, parts do
  local first, last = (part - 1) * PART + 1, math.min(part * PART, #present)
  local events = remove(present, first, last)
  if watched then
    local told, told_bytes = {}, 0
    for i = first, last do
      told[#told + 1] = present[i]
      told[#told + 1] = 'd'
      told_bytes = told_bytes + #present[i] + 1
    end
    local tx = parts > 1 and '"tx":["' .. ARGV[5] .. '",' .. part .. ',' .. parts .. '],' or ''
    tell(events, '', told, told_bytes, tx)
  end
end
return #present
