-- Appends items to the JSON list under a field, or begins one; a time of expiry that it has stays.
--
-- KEYS, ARGV 1 to 5  as in prelude.lua and info_text.lua
-- ARGV  6 field   7 the items as JSON, with commas between and no brackets around
--       8 time to live in ms of a field that was not there, or ''
--       9 how many bytes the list may take at most
-- Reply 1; or the array {bytes that stand there} where they are no list or the list would be too long: nothing was written
-- Errors  WRONGTYPE, NOPERM;  UNSUPPORTED hash field expiry: this server has none
--
-- No JSON is decoded: a text that begins and ends with the brackets of a list is one, and all in between stays as it is.

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
