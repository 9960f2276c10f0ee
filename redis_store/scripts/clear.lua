-- Empty a namespace: delete its data, info and registry entry, and append one log entry.
--
-- KEYS[1-5], ARGV[1-4]  see prelude.lua and remove.lua; a value being computed now is not stored
-- Reply    number of keys deleted, including expired fields that the server has not removed yet

local fields = call('HLEN', data)
look_around()
must_be_allowed('UNLINK', info)
must_be_allowed('SREM', registry, name)
if watched then must_be_allowed('XADD', log, '*', '', '') end

for _, key in ipairs({data, info, flight}) do call('UNLINK', key) end
call('SREM', registry, name)
if redis.pcall('EXISTS', registry) == 0 then redis.pcall('UNLINK', sub(registry, 1, -11) .. 'format') end
-- No key is empty, so a pair with an empty field after the head can only mean this.
if watched and fields > 0 then tell(1, '', {'', 'c'}) end
return fields
