-- Append to the change log what a watcher found by comparing: external writes and expired keys, as they are at this moment.
--
-- KEYS[1]   data hash
-- KEYS[2]   registry (set)
-- KEYS[3]   change log (stream)
-- ARGV[1]   the namespace's name, as in the registry
-- ARGV[2]   limit of the log, in entries
-- ARGV[3]   limit of the log, in bytes; negative if the log gets no values
-- ARGV[4]   id of the last entry that the watcher knows, or '' to append in any case
-- ARGV[5]   'c': a clear if the namespace is gone, else as 'd';  'd': each key;  'e': only missing keys, as expired
-- ARGV[6..] the fields, about 500 at most
-- Reply     1; 0 if the log has a newer entry, and the watcher must compare again

local data, registry, log, name, mode = KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[5]
local call = redis.call

local listed = call('SISMEMBER', registry, name)
local last = call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
if not last or (ARGV[4] ~= '' and last[1] ~= ARGV[4]) then return 0 end

local told, told_bytes, inline_bytes, most_bytes = {}, 0, 0, tonumber(ARGV[3])
local there = call('EXISTS', data)
if there == 0 and mode == 'c' then
  told = {'', 'c'}
else
  for i = 6, #ARGV do
    local field = ARGV[i]
    local bytes, news = call('HSTRLEN', data, field), nil
    if bytes == 0 and call('HEXISTS', data, field) == 0 then
      news = mode == 'e' and 'e' or 'd'
    elseif mode ~= 'e' then
      news = 'r'
      if most_bytes > 0 and bytes <= 1024 and inline_bytes + bytes <= 65536 then
        news = 's' .. call('HGET', data, field)
        inline_bytes = inline_bytes + bytes
      end
    end
    if news then
      told[#told + 1] = field
      told[#told + 1] = news
      told_bytes = told_bytes + #field + #news
    end
  end
end

if #told > 0 then
  local kept = math.max(1, math.min(tonumber(ARGV[2]), math.floor(math.abs(most_bytes) / math.max(1, told_bytes))))
  call('XADD', log, 'NOMKSTREAM', 'MAXLEN', '~', kept, '*', '', '{"n":0,"found":1}', unpack(told))
end
-- An external write may leave out the registry.
if there == 1 and listed == 0 then call('SADD', registry, name) end
if there == 0 and listed == 1 then
  call('SREM', registry, name)
  if redis.pcall('EXISTS', registry) == 0 then
    redis.pcall('UNLINK', string.sub(registry, 1, -11) .. 'format') -- the mark, see prelude.lua
  end
end
return 1
