-- Read a field, or delete it if it holds what was read: data, info and, with the last field, the registry entry. Append a log
-- entry. A missing field counts as deleted: a value being computed for it is not stored.
--
-- KEYS[1-5], ARGV[1-4]  see prelude.lua and remove.lua
-- ARGV[5]   field
-- ARGV[6]   the bytes that the caller has read and decoded, so that nothing is deleted unread; left out to read
-- Reply     1 if they were deleted, else {the stored bytes, or false}, or 0 for big ones

local field = ARGV[5]

-- Bytes of another length are others; copying megabytes of them would keep the server from its other clients.
local bytes = call('HSTRLEN', data, field)
if bytes > 65536 and bytes ~= #(ARGV[6] or '') then return 0 end
local value = call('HGET', data, field)
if value and value ~= ARGV[6] then return {value} end
look_around()
if value then must_be_allowed_to_remove(1) end

forget({field}, 1)
if not value then return {false} end
local events = remove({field}, 1, 1)
if watched then tell(events, '', {field, 'd'}) end
return 1
