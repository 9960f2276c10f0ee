-- Give a key another time to live, or remove it. The key's info expires with it, and its tags hold it as long.
--
-- KEYS[1-4], ARGV[1-4]  see prelude.lua
-- ARGV[5]  field
-- ARGV[6]  time to live from now, in ms, or '' to remove it
-- Reply    1; 0 if the field does not exist, or has no expiry to remove
-- Errors   UNSUPPORTED: the server has no hash field expiry
--
-- The log entry tells watchers to read the value again, because each entry states the expiry of its keys anew.

local field, ttl_ms = ARGV[5], ARGV[6]

call('HLEN', data)
local text = call('HGET', info, field) or ''
watched = call('XLEN', log) > 0
local lives = redis.pcall('HPTTL', data, 'FIELDS', 1, field)
if lives.err then return redis.error_reply('UNSUPPORTED hash field expiry') end
local left_ms = lives[1] or -2
if left_ms == -2 or (ttl_ms == '' and left_ms == -1) then return 0 end
if watched then must_be_allowed('XADD', log, '*', '', '') end

local now = server_time()
local expires = ttl_ms ~= '' and string.format('%.0f', now + ttl_ms) or ''
for _, key in ipairs({data, info}) do
  if expires == '' then
    call('HPERSIST', key, 'FIELDS', 1, field)
  else
    call('HPEXPIREAT', key, expires, 'FIELDS', 1, field)
  end
end
local tags = tags_in(text)
if tags then
  for key in pairs(cjson.decode(tags)) do pcall(tag, key, #name .. ':' .. name .. ':' .. field, expires, now) end
end
if watched then tell(1, expires, {field, 'r'}) end
return 1
