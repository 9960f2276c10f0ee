-- Empty a namespace: delete its data, info and registry entry, and append one log entry.
--
-- KEYS[1-4], ARGV[1-4]  see prelude.lua
-- KEYS[5]  claims and errors of the namespace's computations (hash, flight.lua); a value being computed now is not stored
-- Reply    number of keys deleted, including expired fields that the server has not removed yet
-- Errors   WRONGTYPE, NOPERM
--
-- The first write frees memory, so a full server accepts it and then the rest of the script.

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
-- No key is empty, so a pair with an empty field after the head can only mean this.
if watched and fields > 0 then tell(1, '', {'', 'c'}, 1) end
return fields
