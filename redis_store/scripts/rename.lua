-- Move a field's value, info, tags and expiry to another field, replacing what that field holds.
--
-- KEYS[1-5], ARGV[1-5]  see prelude.lua, remove.lua and info_text.lua
-- ARGV[6]  field
-- ARGV[7]  its new name
-- ARGV[8]  limit of the value, in bytes: it is copied
-- ARGV[9]  limit of its tags, each of which stores the new name
-- Reply    bytes of the value, at least 1; 0 if the field does not exist; {bytes} if they are over the limit, or {bytes, tags} if
--          there are too many, and nothing was written

local field, new = ARGV[6], ARGV[7]

local bytes = call('HSTRLEN', data, field)
if bytes > tonumber(ARGV[8]) then return {bytes} end
local value = call('HGET', data, field)
look_around()
if not value then return 0 end
if field == new then return math.max(bytes, 1) end

local now = write_time()
local _, replaced = times_in(call('HGET', info, new) or '')
if replaced and replaced >= now and #replaced == #now then now = string.format('%.0f', replaced + 1) end
local expires, text, tags = plan_put(field, true, '', true, now)
local _, count = string.gsub(tags, '":1', '')
if count > tonumber(ARGV[9]) then return {bytes, count} end
must_be_allowed_to_remove()

local events = put(new, value, expires, text, tags)
forget({field, new}, 1)
events = events + remove({field}, 1, 1)
if tags ~= '' then
  for key in pairs(cjson.decode(tags)) do redis.pcall('ZREM', key, #name .. ':' .. name .. ':' .. field) end
end
if watched then tell(events, expires, {field, 'd', new, news_of(value, 0)}) end
return math.max(bytes, 1)
