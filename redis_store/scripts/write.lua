-- Sets fields of a namespace: data, registry, info and log entry, or nothing.
--
-- KEYS, ARGV 1 to 4  as in prelude.lua
-- ARGV  5 the agent's name as a JSON string without raw quotes inside, or ''
--       6 time to live in ms, or ''
--       7 'keep': the metadata of each key stays, 2 arguments a key: field, value
--         'put': it is replaced, 4 a key: field, value, new metadata, the metadata that it must have had ('' for none)
--       8.. the keys, about 1,000 at most (unpack fails at 8,000 arguments)
-- Reply 1; or the array {position from 0, metadata} of the first key that had other metadata: then nothing is written
-- Errors  WRONGKEY <position in KEYS>: it holds another type;  UNSUPPORTED hash field expiry: this server has none

local agent, ttl_ms, mode = ARGV[5], ARGV[6], ARGV[7]
local FIRST = 8
local stride = mode == 'put' and 4 or 2

local refusal, _, listed, watched = look()
if refusal then return refusal end
if ttl_ms ~= '' and failed(redis.pcall('HPTTL', data, 'FIELDS', 1, ARGV[FIRST])) then
  return redis.error_reply('UNSUPPORTED hash field expiry')
end

local time = redis.call('TIME')
local now = time[1] .. string.format('%03d', math.floor(time[2] / 1000))

local infos = {}
for i = FIRST, #ARGV, stride do
  local field = ARGV[i]
  local created, by, metadata = now, agent, ''
  local updated, updated_by = '', ''
  -- Info counts only where the field is there: what a hand-made HDEL left must not come back to life.
  if redis.call('HEXISTS', data, field) == 1 then
    local old = redis.call('HGET', info, field)
    local old_created = old and string.match(old, '^{"created":(%d+)')
    if old_created then
      created = old_created
      by = string.match(old, '^{"created":%d+,"by":("[^"]*")') or ''
      local at = string.find(old, ',"metadata":', 1, true)
      if at then metadata = string.sub(old, at + 12, -2) end
      if now ~= created then updated = ',"updated":' .. now end
      if agent ~= by then updated_by = ',"updated_by":' .. (agent == '' and 'null' or agent) end
    end
  end
  if mode == 'put' then
    if metadata ~= ARGV[i + 3] then return {(i - FIRST) / stride, metadata} end
    metadata = ARGV[i + 2]
  end
  infos[#infos + 1] = field
  infos[#infos + 1] = '{"created":' .. created .. (by ~= '' and ',"by":' .. by or '') .. updated .. updated_by
    .. (metadata ~= '' and ',"metadata":' .. metadata or '') .. '}'
end

-- The first write may be refused (a full server, a replica): nothing has happened then. Those after it are not.
if stride == 2 then
  redis.call('HSET', data, unpack(ARGV, FIRST))
else
  local values = {}
  for i = FIRST, #ARGV, stride do
    values[#values + 1] = ARGV[i]
    values[#values + 1] = ARGV[i + 1]
  end
  redis.call('HSET', data, unpack(values))
end
redis.call('HSET', info, unpack(infos))
if listed == 0 then redis.call('SADD', registry, name) end

local events, expiry = 1, ''
if ttl_ms ~= '' then
  local at = string.format('%.0f', tonumber(now) + tonumber(ttl_ms))
  local fields = {}
  for i = 1, #infos, 2 do fields[#fields + 1] = infos[i] end
  redis.call('HPEXPIREAT', data, at, 'FIELDS', #fields, unpack(fields))
  redis.call('HPEXPIREAT', info, at, 'FIELDS', #fields, unpack(fields))
  events, expiry = 2, ',"x":' .. at
end

if watched then
  local told, told_bytes, inline_bytes = {}, 0, 0
  for i = FIRST, #ARGV, stride do
    local field, value = ARGV[i], ARGV[i + 1]
    local news = 'r'
    if #value <= 1024 and inline_bytes + #value <= 65536 then
      news = 's' .. value
      inline_bytes = inline_bytes + #value
    end
    told[#told + 1] = field
    told[#told + 1] = news
    told_bytes = told_bytes + #field + #news
  end
  tell(events, expiry, told, told_bytes)
end
return 1
