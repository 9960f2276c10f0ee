-- Read the metadata of some keys from their info.
--
-- KEYS[1]  data hash
-- KEYS[2]  info hash
-- ARGV     the fields, about 1,000 at most
-- Reply    array of JSON objects, '' for a field that does not exist or has no metadata

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
