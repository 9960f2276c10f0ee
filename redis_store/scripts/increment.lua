-- Add an integer to a field that holds one, or to a missing field. An existing expiry stays.
--
-- KEYS[1-4], ARGV[1-5]  see prelude.lua and info_text.lua
-- ARGV[6]  field
-- ARGV[7]  increment, as digits
-- ARGV[8]  time to live of a new field, in ms, or ''
-- Reply    the sum as text; or {the stored bytes} if the sum cannot be made in 64 bits, and nothing was written
-- Errors   WRONGTYPE, NOPERM;  UNSUPPORTED: the server has no hash field expiry

local field, by = ARGV[6], ARGV[7]
local MOST_DIGITS = 18 -- the sum of two such numbers fits in 64 bits

local function fits(text)
  return #text <= MOST_DIGITS and (text == '0' or find(text, '^%-?[1-9]%d*$') ~= nil)
end

local old = call('HGET', data, field)
if old and not (fits(old) and fits(by)) then return {old} end
local listed, watched = look_around()

local now = server_time()
local expires, events = '', 1
local sum = by
if old then
  local text = info_text(now, call('HGET', info, field) or nil)
  expires = expiry_of(field) or ''
  must_be_allowed_to_put(expires, listed, watched)
  must_be_allowed('HSET', info, field, text)
  call('HINCRBY', data, field, by)
  sum = call('HGET', data, field)
  put_info(field, text, expires)
  if not listed then call('SADD', registry, name) end
else
  if ARGV[8] ~= '' and not expiry_of(field) then return unsupported() end
  expires = expiry_after(now, ARGV[8])
  must_be_allowed_to_put(expires, listed, watched)
  events = put(field, by, info_text(now, nil), expires, listed)
end
if watched then tell_set(events, expires, field, sum) end
return sum
