-- Read a small namespace with all that belongs to its keys, at one moment.
--
-- KEYS[1]  data hash
-- KEYS[2]  info hash
-- ARGV[1]  limit of its fields
-- ARGV[2]  limit of its memory, in bytes
-- Reply    {fields and values in turn, infos, expiry times in ms or false}; false if the namespace is bigger, or cannot be measured

local data, info = KEYS[1], KEYS[2]
local fields = redis.call('HLEN', data)
if fields == 0 then return {{}, {}, false} end
if fields > tonumber(ARGV[1]) then return false end
local bytes = 0
for _, key in ipairs(KEYS) do
  local size = redis.pcall('MEMORY', 'USAGE', key, 'SAMPLES', 0)
  if type(size) == 'table' then return false end
  bytes = bytes + (tonumber(size) or 0)
end
if bytes > tonumber(ARGV[2]) then return false end
local flat, names = redis.call('HGETALL', data), {}
for i = 1, #flat, 2 do names[#names + 1] = flat[i] end
if #names == 0 then return {{}, {}, false} end
local expiries = redis.pcall('HPEXPIRETIME', data, 'FIELDS', #names, unpack(names))
return {flat, redis.call('HMGET', info, unpack(names)), not expiries.err and expiries or false}
