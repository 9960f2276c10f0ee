-- Append items to the JSON list in a field, or create the list. An existing expiry stays.
--
-- KEYS[1-4], ARGV[1-5]  see prelude.lua and info_text.lua
-- ARGV[6]  field
-- ARGV[7]  the items as JSON, separated by commas, without brackets around them
-- ARGV[8]  time to live of a new field, in ms, or ''
-- ARGV[9]  size limit of the list, in bytes
-- Reply    1; or {the stored bytes} if they are no list or the list would be too long, and nothing was written
-- Errors   WRONGTYPE, NOPERM;  UNSUPPORTED: the server has no hash field expiry
--
-- No JSON is decoded. A text that begins and ends with a list's brackets is a list, and its elements stay as they are.

local field, items = ARGV[6], ARGV[7]

local old = call('HGET', data, field)
local value
if not old or find(old, '^%s*%[%s*%]%s*$') then
  value = '[' .. items .. ']'
else
  local close = sub(old, -1) == ']' and #old or find(old, '%]%s*$')
  if not close or not find(old, '^%s*%[') then return {old} end
  value = sub(old, 1, close - 1) .. ',' .. items .. ']'
end
if #value > tonumber(ARGV[9]) then return {old} end
local listed, watched = look_around()

local now = server_time()
local expires
if old then
  expires = expiry_of(field) or ''
else
  if ARGV[8] ~= '' and not expiry_of(field) then return unsupported() end
  expires = expiry_after(now, ARGV[8])
end
local text = info_text(now, old and call('HGET', info, field) or nil)
must_be_allowed_to_put(expires, listed, watched)

local events = put(field, value, text, expires, listed)
if watched then tell_set(events, expires, field, value) end
return 1
