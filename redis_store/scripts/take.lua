-- Read a field and delete it: data, info and, with the last field, the registry entry. Append a log entry.
--
-- KEYS[1-5], ARGV[1-4]  see prelude.lua and remove.lua
-- ARGV[5]   field
-- Reply     the stored bytes; false if the field does not exist

local field = ARGV[5]

local value = call('HGET', data, field)
look_around()
if value then must_be_allowed_to_remove(1) end

forget({field}, 1)
if not value then return false end
local events = remove({field}, 1, 1)
if watched then tell(events, '', {field, 'd'}) end
return value
