-- Delete fields of a namespace: data, info and, with the last field, the registry entry. Append log entries.
--
-- KEYS[1-5], ARGV[1-4]  see prelude.lua and remove.lua
-- ARGV[5]   id of the transaction; with more than 1,000 fields the log has several entries, its parts
-- ARGV[6..] the fields, any number
-- Reply     how many of them existed
-- Errors    WRONGTYPE, NOPERM
--
-- The first write frees memory, so a full server accepts it and then the rest of the script.

local PART = 1000 -- unpack fails at 8,000 arguments

-- An expired field that the server has not removed yet does not exist, whatever HDEL replies (1 on Redis, 0 on Valkey).
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
