-- Empties a namespace: data, info, the registry's entry, and one log entry that says so.
--
-- KEYS, ARGV 1 to 4  as in prelude.lua
-- KEYS  5 hash of what is being computed in the namespace: whoever computes now keeps it to himself
-- Reply how many keys there were (fields that have expired and are not yet reaped count)
-- Errors  WRONGTYPE, NOPERM
--
-- The first write frees memory, so that a full server takes it, and then the rest of the script too.

local fields = call('HLEN', data)
call('SISMEMBER', registry, name)
call('HLEN', info)
call('HLEN', KEYS[5])
local watched = call('XLEN', log) > 0
must_be_allowed('UNLINK', info)
must_be_allowed('SREM', registry, name)
if watched then must_be_allowed('XADD', log, '*', '', '') end

call('UNLINK', data)
call('UNLINK', info)
call('UNLINK', KEYS[5])
call('SREM', registry, name)
-- No key is empty, so a pair with an empty field behind the head can only be this one.
if watched and fields > 0 then tell(1, '', {'', 'c'}, 1) end
return fields
