-- Deletes fields of a namespace: data, info, log entry, and the registry's entry with the last field.
--
-- KEYS, ARGV 1 to 4  as in prelude.lua
-- ARGV  5.. the fields, about 1,000 at most
-- Reply how many of them were there
-- Errors  WRONGTYPE, NOPERM
--
-- The first write frees memory, so that a full server takes it, and then the rest of the script too.

-- A field that has expired and is not yet reaped is not there, whatever HDEL would answer (1 on Redis, 0 on Valkey).
local present = {}
for i = 5, #ARGV do
  if call('HEXISTS', data, ARGV[i]) == 1 then present[#present + 1] = ARGV[i] end
end
call('SISMEMBER', registry, name)
call('HLEN', info)
local watched = call('XLEN', log) > 0
if #present == 0 then return 0 end
must_be_allowed('HDEL', info, 'field')
must_be_allowed('UNLINK', info)
must_be_allowed('SREM', registry, name)
if watched then must_be_allowed('XADD', log, '*', '', '') end

call('HDEL', data, unpack(present))
local events = 1
if call('EXISTS', data) == 0 then
  events = 2
  call('UNLINK', info)
  call('SREM', registry, name)
else
  call('HDEL', info, unpack(present))
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
