-- Deletes fields of a namespace: data, info, log entry, and the registry's entry with the last field.
--
-- KEYS, ARGV 1 to 4  as in prelude.lua
-- ARGV  5.. the fields, about 1,000 at most
-- Reply how many of them were there
-- Errors  WRONGKEY <position in KEYS>: it holds another type
--
-- The first write frees memory, so that a full server takes it, and then the rest of the script too.

local refusal, _, _, watched = look()
if refusal then return refusal end

-- A field that has expired and is not yet reaped is not there, whatever HDEL would answer (1 on Redis, 0 on Valkey).
local present = {}
for i = 5, #ARGV do
  if redis.call('HEXISTS', data, ARGV[i]) == 1 then present[#present + 1] = ARGV[i] end
end
if #present == 0 then return 0 end

redis.call('HDEL', data, unpack(present))
local events = 1
if redis.call('EXISTS', data) == 0 then
  events = 2
  redis.call('UNLINK', info)
  redis.call('SREM', registry, name)
else
  redis.call('HDEL', info, unpack(present))
end

if watched then
  local told, told_bytes = {}, 0
  for i = 1, #present do
    told[#told + 1] = present[i]
    told[#told + 1] = 'd'
    told_bytes = told_bytes + #present[i] + 1
  end
  tell(events, '', told, told_bytes)
end
return #present
