-- Store a computed value, if the claim still holds and the key has not been written since.
--
-- KEYS[1-4], ARGV[1-5]  see prelude.lua and info_text.lua
-- KEYS[5]   flight hash (flight.lua)
-- KEYS[6..] the tags that the value carries (sorted sets)
-- ARGV[6]   field
-- ARGV[7]   value
-- ARGV[8]   time to live, in ms, or ''
-- ARGV[9]   token
-- ARGV[10]  the key's member of a tag
-- Reply     1; or {the stored bytes, or false} if nothing was written
-- Errors    WRONGTYPE, NOPERM;  UNSUPPORTED: the server has no hash field expiry

local flight = KEYS[5]
local field, value, ttl_ms = ARGV[6], ARGV[7], ARGV[8]

local there = call('HGET', data, field)
local listed, watched = look_around()
for i = 6, #KEYS do call('ZCARD', KEYS[i]) end
if ttl_ms ~= '' and not expiry_of(field) then return unsupported() end
local at = now_ms()
local _, from, token = computing(flight, field, at)
if token ~= ARGV[9] then return {there} end
if from ~= identity(data, field) then
  call('HDEL', flight, 'c' .. field)
  wake(flight, field)
  return {there}
end

local now = digits(at)
local expires = expiry_after(now, ttl_ms)
local text = info_text(now, there and call('HGET', info, field) or nil)
must_be_allowed_to_put(expires, listed, watched)
must_be_allowed('HDEL', flight, 'field')
for i = 6, #KEYS do
  must_be_allowed('ZREM', KEYS[i], 'member')
  if expires == '' then must_be_allowed('PERSIST', KEYS[i]) end
end

local events = put(field, value, text, expires, listed)
call('HDEL', flight, 'c' .. field, 'e' .. field)
for i = 6, #KEYS do put_tag(KEYS[i], ARGV[10], expires == '' and math.huge or tonumber(expires), at) end
if watched then tell_set(events, expires, field, value) end
wake(flight, field)
return 1
