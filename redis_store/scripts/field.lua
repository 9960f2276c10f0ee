-- Stands between info_text.lua and a script that sets single fields.

local function look()
  listed = call('SISMEMBER', registry, name) == 1
  watched = call('XLEN', log) > 0
  call('HLEN', info)
end

-- When a field expires, in ms since 1970 as digits; '' for never, or if the server has no hash field expiry.
local function expiry_of(field)
  local reply = redis.pcall('HPEXPIRETIME', data, 'FIELDS', 1, field)
  return not reply.err and (reply[1] or -1) > 0 and string.format('%.0f', reply[1]) or ''
end

-- Returns the expiry, the info and the tags of a field to be set, which `put` takes, after `look` and all checks before a first
-- write. `exists` says whether the field does. With `keep` an existing field keeps its expiry; without `tags` it keeps its tags.
-- Raises UNSUPPORTED if a time to live is given and the server has no hash field expiry.
local function plan_put(field, exists, ttl_ms, keep, now, tags)
  local expires = ''
  if exists and keep then
    expires = expiry_of(field)
  elseif ttl_ms ~= '' then
    if redis.pcall('HPTTL', data, 'FIELDS', 1, field).err then error({err = 'UNSUPPORTED hash field expiry'}) end
    expires = string.format('%.0f', sub(now, 1, -4) + ttl_ms)
  end
  if expires ~= '' then must_be_allowed('HPEXPIREAT', data, expires, 'FIELDS', 1, 'field') end
  if not listed then must_be_allowed('SADD', registry, name) end
  if watched then must_be_allowed('XADD', log, '*', '', '') end
  -- Info counts only if the field exists: info left by an external HDEL must not come back.
  return expires, info_text(now, exists and call('HGET', info, field) or nil, nil, tags)
end

-- Writes a field's info, which expires with the field, its members of tags, and the registry.
local function put_info(field, expires, text, tags)
  call('HSET', info, field, text)
  if expires ~= '' then call('HPEXPIREAT', info, expires, 'FIELDS', 1, field) end
  if not listed then
    call('SADD', registry, name)
    redis.pcall('SET', sub(registry, 1, -11) .. 'format', mark, 'NX')
  end
  listed = true
  if tags == '' then return end
  local member = #name .. ':' .. name .. ':' .. field
  for key in pairs(cjson.decode(tags)) do pcall(tag, key, member, expires, sub(write_time(), 1, -4)) end
end

-- Writes a field and its info. Returns how many keyspace events this fires on the data hash.
-- If the server refuses the first write (it is full, or a replica), nothing has changed.
local function put(field, value, expires, text, tags)
  call('HSET', data, field, value)
  if expires ~= '' then call('HPEXPIREAT', data, expires, 'FIELDS', 1, field) end
  put_info(field, expires, text, tags)
  return expires == '' and 1 or 2
end

-- The form of a value in a log entry of which `inline_bytes` are used: the value itself, or 'r' for one to be read.
local function news_of(value, inline_bytes)
  return #value <= 1024 and inline_bytes + #value <= 65536 and 's' .. value or 'r'
end

-- Does all of it, for a script that sets one field and nothing else. Returns 1.
local function store(field, value, exists, ttl_ms, keep)
  look()
  local expires, text, tags = plan_put(field, exists, ttl_ms, keep, write_time())
  local events = put(field, value, expires, text, tags)
  if watched then tell(events, expires, {field, news_of(value, 0)}) end
  return 1
end
