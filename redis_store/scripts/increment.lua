-- Add an integer to a field that holds one, or to a missing field. An existing expiry stays.
--
-- KEYS[1-4], ARGV[1-5]  see prelude.lua and info_text.lua
-- ARGV[6]  field
-- ARGV[7]  increment, as digits
-- ARGV[8]  time to live of a new field, in ms, or ''
-- ARGV[9]  limit of the stored bytes, which are copied
-- Reply    the sum as text; or {the stored bytes} if the sum cannot be made in 64 bits, and nothing was written; or {false,
--          their size} if they are over the limit
-- Errors   UNSUPPORTED: the server has no hash field expiry

local field, by = ARGV[6], ARGV[7]
local MOST_DIGITS = 18 -- the sum of two such numbers fits in 64 bits

local function fits(text)
  return #text <= MOST_DIGITS and (text == '0' or find(text, '^%-?[1-9]%d*$') ~= nil)
end

local bytes = call('HSTRLEN', data, field)
if bytes > tonumber(ARGV[9]) then return {false, bytes} end
local old = call('HGET', data, field)
if not old then
  store(field, by, false, ARGV[8])
  return by
end
if not (fits(old) and fits(by)) then return {old} end
look()
local expires, text, tags = plan_put(field, true, '', true, write_time())
must_be_allowed('HSET', info, field, text)
call('HINCRBY', data, field, by)
local sum = call('HGET', data, field)
put_info(field, expires, text, tags)
if watched then tell(1, expires, {field, news_of(sum, 0)}) end
return sum
