-- Stands between info_text.lua and a script that sets single fields: reads a field's expiry, and writes a field.

-- Checks the type of every key that a write touches besides the data hash. Returns whether the namespace is in the registry,
-- and whether it is watched.
local function look_around()
  local listed = call('SISMEMBER', registry, name) == 1
  call('HLEN', info)
  return listed, call('XLEN', log) > 0
end

-- When a field expires, in ms since 1970 as digits; '' for never, nil if the server has no hash field expiry.
local function expiry_of(field)
  local reply = redis.pcall('HPEXPIRETIME', data, 'FIELDS', 1, field)
  if reply.err then return nil end
  local at = reply[1] or -1
  return at > 0 and string.format('%.0f', at) or ''
end

-- When something written now is to expire, in the same form.
local function expiry_after(now, ttl_ms)
  return ttl_ms ~= '' and string.format('%.0f', tonumber(now) + tonumber(ttl_ms)) or ''
end

local function unsupported()
  return redis.error_reply('UNSUPPORTED hash field expiry')
end

-- Raises NOPERM if the server's access rules forbid a part of `put` or of the log entry after it.
local function must_be_allowed_to_put(expires, listed, watched)
  if expires ~= '' then must_be_allowed('HPEXPIREAT', data, expires, 'FIELDS', 1, 'field') end
  if not listed then must_be_allowed('SADD', registry, name) end
  if watched then must_be_allowed('XADD', log, '*', '', '') end
end

-- Writes a field's info, which expires with the field.
local function put_info(field, text, expires)
  call('HSET', info, field, text)
  if expires ~= '' then call('HPEXPIREAT', info, expires, 'FIELDS', 1, field) end
end

-- Writes a field and its info. Returns how many keyspace events this fires on the data hash.
-- If the server refuses the first write (it is full, or a replica), nothing has changed.
local function put(field, value, text, expires, listed)
  call('HSET', data, field, value)
  if expires ~= '' then call('HPEXPIREAT', data, expires, 'FIELDS', 1, field) end
  put_info(field, text, expires)
  if not listed then call('SADD', registry, name) end
  return expires == '' and 1 or 2
end

-- The part of a log entry's head that states an expiry.
local function expiry_told(expires)
  return expires == '' and '' or ',"x":' .. expires
end

-- The form of a value in a log entry: the value itself, or 'r' for one to be read from the data.
local function news_of(value)
  return #value <= 1024 and 's' .. value or 'r'
end

-- Appends a log entry about one field that was set.
local function tell_set(events, expires, field, value)
  local news = news_of(value)
  tell(events, expiry_told(expires), {field, news}, #field + #news)
end
