-- Set one field: data, registry, info and log entry, or nothing. The most frequent write, kept short.
--
-- KEYS[1-4], ARGV[1-5]  see prelude.lua and info_text.lua
-- ARGV[6]  field
-- ARGV[7]  value
-- Reply    1; 0 if the field has tags, and nothing was written: write.lua also moves their members

local field, value = ARGV[6], ARGV[7]

local old = call('HGET', info, field)
listed = call('SISMEMBER', registry, name) == 1
watched = call('XLEN', log) > 0
-- Info counts only if the field exists: info left by an external HDEL must not come back.
if old and call('HEXISTS', data, field) == 0 then old = nil end
local text, tags = info_text(write_time(), old)
if tags ~= '' then return 0 end
if not listed then must_be_allowed('SADD', registry, name) end
if watched then must_be_allowed('XADD', log, '*', '', '') end

-- If the first write is refused (another type, a full server, a replica), nothing has changed.
call('HSET', data, field, value)
call('HSET', info, field, text)
if not listed then
  call('SADD', registry, name)
  redis.pcall('SET', sub(registry, 1, -11) .. 'format', mark, 'NX')
end
if watched then tell(1, '', {field, #value <= 1024 and 's' .. value or 'r'}) end
return 1
