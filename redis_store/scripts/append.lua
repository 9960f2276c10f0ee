-- Append items to the JSON list in a field, or create the list. An existing expiry stays.
--
-- KEYS[1-4], ARGV[1-5]  see prelude.lua and info_text.lua
-- ARGV[6]  field
-- ARGV[7]  the items as JSON, separated by commas, without brackets around them
-- ARGV[8]  time to live of a new field, in ms, or ''
-- ARGV[9]  size limit of the list, in bytes
-- ARGV[10] limit of the list as it becomes, in bytes: it is copied
-- Reply    the list's size in bytes; or {the stored bytes} if they are no list or the list would be too long, and nothing was written; or {false, its
--          size} if it would be over the limit of what is copied
-- Errors   UNSUPPORTED: the server has no hash field expiry
--
-- No JSON is decoded. A text that begins and ends with a list's brackets is a list, and its elements stay as they are.

local field, items = ARGV[6], ARGV[7]

local bytes = call('HSTRLEN', data, field) + #items
if bytes > tonumber(ARGV[10]) then return {false, bytes} end
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
store(field, value, old, ARGV[8], true)
return #value
