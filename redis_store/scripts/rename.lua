-- Move a field's value, info and expiry to another field, replacing what that field holds.
--
-- KEYS[1-4], ARGV[1-5]  see prelude.lua and info_text.lua
-- KEYS[5]  see remove.lua
-- ARGV[6]  field
-- ARGV[7]  its new name
-- Reply    1; 0 if the field does not exist
-- Errors   WRONGTYPE, NOPERM

local field, new = ARGV[6], ARGV[7]

local value = call('HGET', data, field)
local listed = look_around()
local watched, computing = look()
if not value then return 0 end
if field == new then return 1 end

local expires = expiry_of(field) or ''
local text = info_text(server_time(), call('HGET', info, field) or nil)
must_be_allowed_to_put(expires, listed, watched)
must_be_allowed_to_remove(watched)

local events = put(new, value, text, expires, listed)
if computing then forget({field, new}, 1) end
events = events + remove({field}, 1, 1)
if watched then
  local news = news_of(value)
  tell(events, expiry_told(expires), {field, 'd', new, news}, #field + 1 + #new + #news)
end
return 1
