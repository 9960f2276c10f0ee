-- Read the infos and expiries of fields, and their values if all is small: what a caller that reads values by HMGET in the same
-- transaction needs beside them.
--
-- KEYS[1]   data hash
-- KEYS[2]   info hash
-- ARGV[1]   measure values and infos, and read both if they take at most this many bytes together; '' does not measure, and reads
--           no values
-- ARGV[2..] the fields; none for all of the namespace, without measuring
-- Reply     {bytes, array of infos, array of expiries in ms since 1970 or negative, array of values or false, array of fields};
--           {bytes} if they take more

local MOST_FIELDS = 3800 -- some servers take no more arguments

local data, info, most = KEYS[1], KEYS[2], tonumber(ARGV[1])
local fields, bytes = {}, 0
if #ARGV == 1 then
  fields = redis.call('HKEYS', data)
else
  for i = 2, #ARGV do fields[i - 1] = ARGV[i] end
end
if most then
  for _, field in ipairs(fields) do
    bytes = bytes + redis.call('HSTRLEN', data, field) + redis.call('HSTRLEN', info, field)
  end
  if bytes > most then return {bytes} end
end

local infos, expiries, values = {}, {}, most and {} or false
local expires = true
for first = 1, #fields, MOST_FIELDS do
  local last = math.min(first + MOST_FIELDS - 1, #fields)
  for _, text in ipairs(redis.call('HMGET', info, unpack(fields, first, last))) do infos[#infos + 1] = text end
  local times = expires and redis.pcall('HPEXPIRETIME', data, 'FIELDS', last - first + 1, unpack(fields, first, last)) or {}
  if not times or times.err then expires, times = false, {} end
  for i = first, last do expiries[i] = times[i - first + 1] or -1 end
  if values then
    for _, text in ipairs(redis.call('HMGET', data, unpack(fields, first, last))) do values[#values + 1] = text end
  end
end
return {bytes, infos, expiries, values, #ARGV == 1 and fields or {}}
