-- Sets fields of a namespace: data, registry, info and log entry, or nothing.
--
-- KEYS, ARGV 1 to 5  as in prelude.lua and info_text.lua
-- ARGV  6 time to live in ms, or ''
--       7 'keep': the metadata of each key stays, 2 arguments a key: field, value
--         'put': it is replaced, 4 a key: field, value, new metadata, the metadata that it must have had ('' for none)
--         'beside': the metadata stays, 1 a key: field; the values, of more than 1 KiB each, are set by an HSET right behind
--         this in the same transaction, which check.lua has let through; no time to live
--       8.. the keys, about 1,000 at most (unpack fails at 8,000 arguments)
-- Reply 1; or the array {position from 0, metadata} of the first key that had other metadata: then nothing is written
-- Errors  WRONGTYPE, NOPERM;  UNSUPPORTED hash field expiry: this server has none

local ttl_ms, mode = ARGV[6], ARGV[7]
local FIRST = 8
local stride = mode == 'put' and 4 or mode == 'beside' and 1 or 2

local fields = {}
for i = FIRST, #ARGV, stride do fields[#fields + 1] = ARGV[i] end

local olds = call('HMGET', info, unpack(fields))
local listed = call('SISMEMBER', registry, name)
local watched = call('XLEN', log) > 0
call('HLEN', data)
-- Where a field may expire, one command tells of all fields whether they are there (-2: it is not).
local lives = redis.pcall('HPTTL', data, 'FIELDS', #fields, unpack(fields))
if lives.err then
  local unknown = find(lives.err, 'nknown', 1, true)
  if ttl_ms ~= '' then return unknown and redis.error_reply('UNSUPPORTED hash field expiry') or lives end
  lives = nil
end

local now = server_time()
local infos, fresh, known = {}, info_text(now, nil), {}
for i = 1, #fields do
  local field, old = fields[i], olds[i]
  -- Info counts only where the field is there: what a hand-made HDEL left must not come back to life.
  if old and lives and (lives[i] or -2) == -2 then old = nil end
  if old and not lives and call('HEXISTS', data, field) == 0 then old = nil end
  local text
  if mode == 'put' then
    local at = FIRST + (i - 1) * 4
    local metadata = old and metadata_in(old) or ''
    if metadata ~= ARGV[at + 3] then return {i - 1, metadata} end
    text = info_text(now, old, ARGV[at + 2])
  elseif old then
    -- Keys that were written together have the same info.
    text = known[old] or info_text(now, old)
    known[old] = text
  else
    text = fresh
  end
  infos[2 * i - 1] = field
  infos[2 * i] = text
end

-- Where it is refused, what should have been one transaction comes command by command.
must_be_allowed('MULTI')
if listed == 0 then must_be_allowed('SADD', registry, name) end
if ttl_ms ~= '' then must_be_allowed('HPEXPIREAT', info, '1', 'FIELDS', '1', 'field') end
if watched then must_be_allowed('XADD', log, '*', '', '') end

-- The first write may be refused (a full server, a replica): nothing has happened then. Those after it are not.
if stride == 2 then
  call('HSET', data, unpack(ARGV, FIRST))
elseif stride == 4 then
  local values = {}
  for i = FIRST, #ARGV, stride do
    values[#values + 1] = ARGV[i]
    values[#values + 1] = ARGV[i + 1]
  end
  call('HSET', data, unpack(values))
end
call('HSET', info, unpack(infos))
if listed == 0 then call('SADD', registry, name) end

local events, expiry = 1, ''
if ttl_ms ~= '' then
  local at = string.format('%.0f', tonumber(now) + tonumber(ttl_ms))
  call('HPEXPIREAT', data, at, 'FIELDS', #fields, unpack(fields))
  call('HPEXPIREAT', info, at, 'FIELDS', #fields, unpack(fields))
  events, expiry = 2, ',"x":' .. at
end

if watched then
  local told, told_bytes, inline_bytes = {}, 0, 0
  for i = FIRST, #ARGV, stride do
    local field, value = ARGV[i], ARGV[i + 1]
    local news = 'r'
    if stride > 1 and #value <= 1024 and inline_bytes + #value <= 65536 then
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
