-- Reads the metadata of some keys, as it stands in their info.
--
-- KEYS  1 data hash   2 info hash
-- ARGV  the fields, about 1,000 at most
-- Reply an array of JSON objects, '' where a field is not there or has none

local found = {}
for i = 1, #ARGV do
  found[i] = ''
  if redis.call('HEXISTS', KEYS[1], ARGV[i]) == 1 then
    local info = redis.call('HGET', KEYS[2], ARGV[i])
    local at = info and string.find(info, ',"metadata":', 1, true)
    if at then found[i] = string.sub(info, at + 12, -2) end
  end
end
return found
