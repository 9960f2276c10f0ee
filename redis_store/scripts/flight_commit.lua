-- Store a computed value, if the claim still holds and the key has not been written since. A value that has expired since
-- is replaced.
--
-- KEYS[1-4], ARGV[1-5]  see prelude.lua and info_text.lua
-- KEYS[5]   flight hash (flight.lua)
-- KEYS[6..] the tags that the value carries (sorted sets)
-- ARGV[6]   field
-- ARGV[7]   value
-- ARGV[8]   time to live, in ms, or ''
-- ARGV[9]   token
-- ARGV[10]  the tags' Redis keys in the form of info_text.lua, or ''
-- ARGV[11]  limit of the stored bytes, which are copied
-- Reply     1; or {the stored bytes, or false} if nothing was written; {false} if they are over the limit
-- Errors    UNSUPPORTED: the server has no hash field expiry

local flight, now = KEYS[5], now_ms()
local field, value = ARGV[6], ARGV[7]

if call('HSTRLEN', data, field) > tonumber(ARGV[11]) then return {false} end
local there = call('HGET', data, field)
look()
for i = 6, #KEYS do call('ZCARD', KEYS[i]) end
local _, from, token = computing(flight, field, now)
if token ~= ARGV[9] then return {there} end
if not unchanged(from, state_of(data, info, field, there), now) then
  call('HDEL', flight, 'c' .. field)
  wake(flight, field)
  return {there}
end

local expires, text, tags = plan_put(field, there, ARGV[8], false, write_time(), ARGV[10])
must_be_allowed('HDEL', flight, 'field')
for i = 6, #KEYS do
  must_be_allowed('ZADD', KEYS[i], '0', 'member')
  if expires == '' then must_be_allowed('PERSIST', KEYS[i]) end
end

local events = put(field, value, expires, text, tags)
call('HDEL', flight, 'c' .. field, 'e' .. field)
if watched then tell(events, expires, {field, news_of(value, 0)}) end
wake(flight, field)
if #KEYS > 5 then pcall(sweep_tags, registry_of(KEYS[6]), #KEYS - 5, digits(now)) end
return 1
