-- Set fields of a namespace: data, registry, info and log entry, or nothing. tags.lua and write_tags.lua follow.
--
-- KEYS[1-4], ARGV[1-5]  see prelude.lua and info_text.lua
-- ARGV[6]   time to live, in ms, or ''
-- ARGV[7]   'keep': the metadata of each key stays; 2 arguments a key: field, value
--           'put': it is replaced; 4 a key: field, value, new metadata, the metadata that it must have had ('' for none)
--           'beside': it stays; 1 a key: field. An HSET right after this script, in the same transaction, sets the values,
--           each of more than 1 KiB. check.lua has checked that transaction. No time to live.
-- ARGV[8..] the keys, about 1,000 at most (unpack fails at 8,000 arguments)
-- Reply     1; or {index from 0, metadata} of the first key that had other metadata, and nothing was written
-- Errors    UNSUPPORTED: the server has no hash field expiry

local ttl_ms, mode = ARGV[6], ARGV[7]
local FIRST = 8
local stride = mode == 'put' and 4 or mode == 'beside' and 1 or 2

local fields = {}
for i = FIRST, #ARGV, stride do fields[#fields + 1] = ARGV[i] end

local olds = call('HMGET', info, unpack(fields))
listed = call('SISMEMBER', registry, name) == 1
watched = call('XLEN', log) > 0
call('HLEN', data)
-- On a server with hash field expiry one command tells which of the fields exist (-2: missing).
local lives = redis.pcall('HPTTL', data, 'FIELDS', #fields, unpack(fields))
if lives.err then
  local unknown = find(lives.err, 'nknown', 1, true)
  if ttl_ms ~= '' then return unknown and redis.error_reply('UNSUPPORTED hash field expiry') or lives end
  lives = nil
end

local now = write_time()
local now_ms = sub(now, 1, -4)
local infos, known, known_tags, tagged -- the last two only if there are any
repeat
  if later then now, later = later, nil end
  infos, known, known_tags, tagged = {}, {}, nil, nil
  local fresh = info_text(now, nil)
  for i = 1, #fields do
    local field, old = fields[i], olds[i]
    -- Info counts only if the field exists: info left by an external HDEL must not come back.
    if old and lives and (lives[i] or -2) == -2 then old = nil end
    if old and not lives and call('HEXISTS', data, field) == 0 then old = nil end
    local text, tags
    if mode == 'put' then
      local at = FIRST + (i - 1) * 4
      -- Names contain no raw quote, so the first match is the right one.
      local from = old and find(old, ',"metadata":', 1, true)
      local metadata = from and sub(old, from + 12, -2) or ''
      if metadata ~= ARGV[at + 3] then return {i - 1, metadata} end
      text, tags = info_text(now, old, ARGV[at + 2])
    elseif old then
      -- Keys that were written together have the same info.
      text, tags = known[old], known_tags and known_tags[old]
      if not text then
        text, tags = info_text(now, old)
        known[old] = text
        if tags ~= '' then
          known_tags = known_tags or {}
          known_tags[old] = tags
        end
      end
    else
      text = fresh
    end
    infos[2 * i - 1] = field
    infos[2 * i] = text
    if tags and tags ~= '' then
      tagged = tagged or {}
      tagged[field] = tags
    end
  end
until not later

-- If MULTI is forbidden, the commands of a transaction arrive one by one.
must_be_allowed('MULTI')
if not listed then must_be_allowed('SADD', registry, name) end
if ttl_ms ~= '' then must_be_allowed('HPEXPIREAT', info, '1', 'FIELDS', '1', 'field') end
if watched then must_be_allowed('XADD', log, '*', '', '') end

-- If the first write is refused (a full server, a replica), nothing has changed. The writes after it are not refused.
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
if not listed then
  call('SADD', registry, name)
  redis.pcall('SET', sub(registry, 1, -11) .. 'format', mark, 'NX')
end

local events, expires = 1, ''
if ttl_ms ~= '' then
  events, expires = 2, string.format('%.0f', now_ms + ttl_ms)
  call('HPEXPIREAT', data, expires, 'FIELDS', #fields, unpack(fields))
  call('HPEXPIREAT', info, expires, 'FIELDS', #fields, unpack(fields))
end

if watched then
  local told, inline_bytes = {}, 0
  for i = FIRST, #ARGV, stride do
    local value, news = ARGV[i + 1], 'r'
    if stride > 1 and #value <= 1024 and inline_bytes + #value <= 65536 then
      news = 's' .. value
      inline_bytes = inline_bytes + #value
    end
    told[#told + 1] = ARGV[i]
    told[#told + 1] = news
  end
  tell(events, expires, told)
end
if not tagged then return 1 end
