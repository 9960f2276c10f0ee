-- Set one field if it holds what is expected: data, registry, info and log entry, or nothing.
--
-- KEYS[1-4], ARGV[1-5]  see prelude.lua and info_text.lua
-- ARGV[6]  field
-- ARGV[7]  value
-- ARGV[8]  time to live, in ms, or ''
-- ARGV[9]  'keep': an existing field keeps its expiry;  '': it does not
-- ARGV[10] 'absent' or 'equal'
-- ARGV[11] the expected bytes, with 'equal'
-- Reply    1; if nothing was written, 0 with 'absent', and {the stored bytes, or false} with 'equal'
-- Errors   WRONGTYPE, NOPERM;  UNSUPPORTED: the server has no hash field expiry

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
-- Info counts only if the field exists: info left by an external HDEL must not come back.
local text = info_text(now, there and call('HGET', info, field) or nil)
must_be_allowed_to_put(expires, listed, watched)

local events = put(field, value, text, expires, listed)
if watched then tell_set(events, expires, field, value) end
return 1
