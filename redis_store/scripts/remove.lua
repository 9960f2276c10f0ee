-- Stands between prelude.lua and a script that deletes fields: removes data, info and, with the last field, the registry entry.
--
-- KEYS[5]  claims and errors of the namespace's computations (hash, flight.lua)

local flight, computing = KEYS[5], nil

-- Sets `listed` and `watched`, and finds out whether values of the namespace are being computed.
local function look_around()
  listed = call('SISMEMBER', registry, name) == 1
  watched = call('XLEN', log) > 0
  call('HLEN', info)
  computing = call('HLEN', flight) > 0
end

-- Raises NOPERM if the server's access rules forbid a part of a delete. `count` is the number of fields, if known: while
-- other fields stay, the delete removes nothing but fields. (Asking costs more than deleting.)
local function must_be_allowed_to_remove(count)
  must_be_allowed('HDEL', info, 'field')
  if not count or call('HLEN', data) <= count then
    must_be_allowed('UNLINK', info)
    must_be_allowed('SREM', registry, name)
  end
  if watched then must_be_allowed('XADD', log, '*', '', '') end
end

-- Drops the claims on these fields, so that a value being computed now is not stored: it may come from the deleted data.
local function forget(fields, first)
  if not computing then return end
  for i = first, #fields do call('HDEL', flight, 'c' .. fields[i], 'e' .. fields[i]) end
end

-- Deletes fields that exist, about 1,000 at most. Returns how many keyspace events this fires on the data hash.
local function remove(present, first, last)
  call('HDEL', data, unpack(present, first, last))
  call('HDEL', info, unpack(present, first, last))
  if call('HLEN', data) > 0 then return 1 end
  call('UNLINK', info)
  call('SREM', registry, name)
  if redis.pcall('EXISTS', registry) == 0 then redis.pcall('UNLINK', sub(registry, 1, -11) .. 'format') end
  return 2
end
