-- Reads a field and deletes it: data, info, log entry, and the registry's entry with the last field.
--
-- KEYS, ARGV 1 to 4  as in prelude.lua and remove.lua
-- ARGV  5 field
-- Reply the bytes that stood there, or false
-- Errors  WRONGTYPE, NOPERM
--
-- The first write frees memory, so that a full server takes it, and then the rest of the script too.

local field = ARGV[5]

local value = call('HGET', data, field)
local watched, computing = look()
if value then must_be_allowed_to_remove(watched, 1) end

if computing then forget({field}, 1) end
if not value then return false end
local events = remove({field}, 1, 1)
if watched then tell(events, '', {field, 'd'}, #field + 1) end
return value
