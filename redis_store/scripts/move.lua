-- Give a namespace another name, at which nothing is.
--
-- KEYS[1-5], ARGV[1-4]  see prelude.lua and remove.lua
-- KEYS[6-8] data hash, info hash and change log of the new name
-- ARGV[5]   the new name
-- Reply     number of keys, 0 if there is nothing to move; -1 if the new name holds something, and nothing was changed
--
-- Watchers of the old name see a clear. Those of the new one find every key, or get a reset, because its log has a gap.

local new_data, new_info, new_log, new_name = KEYS[6], KEYS[7], KEYS[8], ARGV[5]

local fields = call('HLEN', data)
look_around()
local taken = call('HLEN', new_data) > 0
call('HLEN', new_info)
local new_watched = call('XLEN', new_log) > 0
if fields == 0 then return 0 end
if taken then return -1 end
must_be_allowed('RENAME', data, new_data)
must_be_allowed('UNLINK', info)
must_be_allowed('SREM', registry, name)
must_be_allowed('SADD', registry, new_name)
if watched or new_watched then must_be_allowed('XADD', log, '*', '', '') end

call('UNLINK', new_info, flight) -- info without its keys is left of others
call('RENAME', data, new_data)
if call('EXISTS', info) == 1 then call('RENAME', info, new_info) end
call('SREM', registry, name)
call('SADD', registry, new_name)
if watched then tell(1, '', {'', 'c'}) end
if new_watched then call('XADD', new_log, 'NOMKSTREAM', '*', '', '{"n":0,"gap":1}') end
return fields
