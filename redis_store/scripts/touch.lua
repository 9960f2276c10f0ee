-- Read fields, and give those that exist another time to live. Infos and tags follow, as in expire.lua.
--
-- KEYS[1-4], ARGV[1-4]  see prelude.lua
-- ARGV[5]   time to live from now, in ms
-- ARGV[6]   '1' to leave alone what does not expire, or ''
-- ARGV[7]   return the values if they take at most this many bytes together
-- ARGV[8..] the fields, about 1,000 at most
-- Reply     array of values or false; false if they take more
-- Errors    UNSUPPORTED: the server has no hash field expiry

local fields, bytes = {}, 0
for i = 8, #ARGV do
  fields[i - 7] = ARGV[i]
  bytes = bytes + call('HSTRLEN', data, ARGV[i])
end
local infos = call('HMGET', info, unpack(fields))
watched = call('XLEN', log) > 0
local lives = redis.pcall('HPTTL', data, 'FIELDS', #fields, unpack(fields))
if lives and lives.err then return redis.error_reply('UNSUPPORTED hash field expiry') end
local touched, told = {}, {}
for i, field in ipairs(fields) do
  local left_ms = lives and lives[i] or -2
  if left_ms >= 0 or (left_ms == -1 and ARGV[6] == '') then
    touched[#touched + 1] = field
    told[#told + 1] = field
    told[#told + 1] = 'r'
  end
end
if #touched > 0 then
  if watched then must_be_allowed('XADD', log, '*', '', '') end
  must_be_allowed('HPEXPIREAT', info, '1', 'FIELDS', '1', 'field')
  local now = server_time()
  local expires = string.format('%.0f', now + ARGV[5])
  call('HPEXPIREAT', data, expires, 'FIELDS', #touched, unpack(touched))
  call('HPEXPIREAT', info, expires, 'FIELDS', #touched, unpack(touched))
  for i, field in ipairs(fields) do
    local tags = infos[i] and (lives[i] >= 0 or ARGV[6] == '') and tags_in(infos[i])
    if tags then
      for key in pairs(cjson.decode(tags)) do pcall(tag, key, #name .. ':' .. name .. ':' .. field, expires, now) end
    end
  end
  if watched then tell(1, expires, told) end
end
if bytes > tonumber(ARGV[7]) then return false end
return call('HMGET', data, unpack(fields))
