-- Set the registry, info and log entry of one big value, which an HSET sets right after it in the same transaction. Kept short, as
-- set.lua is: its text is sent each time. check.lua has checked the transaction, and that the field has no tags.
--
-- KEYS[1-4], ARGV[1-5]  see prelude.lua and info_text.lua
-- ARGV[6]  field
-- Reply    1

local field = ARGV[6]

local old = call('HGET', info, field)
listed = call('SISMEMBER', registry, name) == 1
watched = call('XLEN', log) > 0
-- Info counts only if the field exists: info left by an external HDEL must not come back.
if old and call('HEXISTS', data, field) == 0 then old = nil end
local text = info_text(write_time(), old)
-- If MULTI is forbidden, the commands of a transaction arrive one by one.
must_be_allowed('MULTI')
if not listed then must_be_allowed('SADD', registry, name) end
if watched then must_be_allowed('XADD', log, '*', '', '') end

-- If the first write is refused (a full server, a replica), nothing has changed. The writes after it are not refused.
call('HSET', info, field, text)
if not listed then
  call('SADD', registry, name)
  redis.pcall('SET', sub(registry, 1, -11) .. 'format', mark, 'NX')
end
if watched then tell(1, '', {field, 'r'}) end
return 1
