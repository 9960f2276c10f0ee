-- Sets one field if what stands there is as expected: data, registry, info and log entry, or nothing.
--
-- KEYS, ARGV 1 to 5  as in prelude.lua and info_text.lua
-- ARGV  6 field   7 value
--       8 time to live in ms, or ''
--       9 'keep': a field that is there keeps the time of expiry that it has; '': it does not
--       10 'absent' or 'equal'   11 the bytes that must stand there, with 'equal'
-- Reply 1; else nothing was written: 0 with 'absent', with 'equal' the array {bytes that stand there, or false}
-- Errors  WRONGTYPE, NOPERM;  UNSUPPORTED hash field expiry: this server has none

local field, value, ttl_ms = ARGV[6], ARGV[7], ARGV[8]

local there
if ARGV[10] == 'absent' then
  if call('HEXISTS', data, field) == 1 then return 0 end
else
  there = call('HGET', data, field)
  if there ~= ARGV[11] then return {there} end
end
local listed, watched = look_around()

local now = server_time()
local expires
if there and ARGV[9] == 'keep' then
  expires = expiry_of(field) or ''
else
  if ttl_ms ~= '' and not expiry_of(field) then return unsupported() end
  expires = expiry_after(now, ttl_ms)
end
-- Info counts only where the field is there: what a hand-made HDEL left must not come back to life.
local text = info_text(now, there and call('HGET', info, field) or nil)
must_be_allowed_to_put(expires, listed, watched)

local events = put(field, value, text, expires, listed)
if watched then tell_set(events, expires, field, value) end
return 1
