-- Empty a namespace as clear.lua does, for an operator: its data may be kept to undo that, and its change log forgets all values.
--
-- KEYS[1-5], ARGV[1-4]  see prelude.lua and remove.lua
-- KEYS[6]   where the data is kept (hash)
-- KEYS[7]   where the info is kept (hash)
-- ARGV[5]   how long they are kept, in ms; '0' to keep nothing, nor what an earlier call has kept
-- Reply     number of keys deleted, including expired fields that the server has not removed yet
--
-- What is kept replaces what an earlier call has kept. An empty namespace replaces nothing.

local kept_data, kept_info, life_ms = KEYS[6], KEYS[7], tonumber(ARGV[5])

local fields = call('HLEN', data)
look_around()
call('HLEN', kept_data)
call('HLEN', kept_info)
must_be_allowed('UNLINK', info)
must_be_allowed('SREM', registry, name)
if watched then
  must_be_allowed('XADD', log, '*', '', '')
  must_be_allowed('XTRIM', log, 'MAXLEN', '1')
end
if life_ms > 0 then
  must_be_allowed('RENAME', data, kept_data)
  must_be_allowed('PEXPIRE', kept_data, '1')
end

if life_ms == 0 then
  for _, key in ipairs({data, info, flight, kept_data, kept_info}) do call('UNLINK', key) end
elseif fields > 0 then
  for _, key in ipairs({kept_data, kept_info, flight}) do call('UNLINK', key) end
  call('RENAME', data, kept_data)
  call('PEXPIRE', kept_data, life_ms)
  if call('HLEN', info) > 0 then
    call('RENAME', info, kept_info)
    call('PEXPIRE', kept_info, life_ms)
  end
end
call('SREM', registry, name)
if redis.pcall('EXISTS', registry) == 0 then redis.pcall('UNLINK', sub(registry, 1, -11) .. 'format') end
if watched then
  if fields > 0 then tell(1, '', {'', 'c'}) else tell(0, '', {}) end
  call('XTRIM', log, 'MAXLEN', '1')
end
return fields
