-- Stands between info_text.lua and a script that sets single fields: what stands there, and the four parts of a write.

-- Looks at the type of every key that a write touches beside the data; returns whether the namespace is listed, and whether
-- anybody watches.
local function look_around()
  local listed = call('SISMEMBER', registry, name) == 1
  call('HLEN', info)
  return listed, call('XLEN', log) > 0
end

-- When a field expires, in ms since 1970 as digits, '' for never; nil where the server knows no such thing.
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

-- Raises NOPERM where the server's access rules forbid a part of `put` or of the log entry behind it.
local function must_be_allowed_to_put(expires, listed, watched)
  if expires ~= '' then must_be_allowed('HPEXPIREAT', data, expires, 'FIELDS', 1, 'field') end
  if not listed then must_be_allowed('SADD', registry, name) end
  if watched then must_be_allowed('XADD', log, '*', '', '') end
end

-- Writes info of a field that expires with it.
local function put_info(field, text, expires)
  call('HSET', info, field, text)
  if expires ~= '' then call('HPEXPIREAT', info, expires, 'FIELDS', 1, field) end
end

-- Writes a field and its info; returns how many keyspace events that fires on the data hash.
-- The first write may be refused (a full server, a replica): nothing has happened then.
local function put(field, value, text, expires, listed)
  call('HSET', data, field, value)
  if expires ~= '' then call('HPEXPIREAT', data, expires, 'FIELDS', 1, field) end
  put_info(field, text, expires)
  if not listed then call('SADD', registry, name) end
  return expires == '' and 1 or 2
end

-- What a log entry's head says of an expiry.
local function expiry_told(expires)
  return expires == '' and '' or ',"x":' .. expires
end

-- How a log entry tells of a value.
local function news_of(value)
  return #value <= 1024 and 's' .. value or 'r'
end

-- Appends a log entry about one field that was set.
local function tell_set(events, expires, field, value)
  local news = news_of(value)
  tell(events, expiry_told(expires), {field, news}, #field + #news)
end
