-- Stands between prelude.lua and a script that deletes fields: data, info, the registry's entry with the last field.
--
-- KEYS  5 hash of what is being computed in the namespace (flight_claim.lua)

local flight = KEYS[5]

-- Looks at the type of every key that a delete touches beside the data; returns whether anybody watches, and whether
-- anybody computes.
local function look()
  call('SISMEMBER', registry, name)
  call('HLEN', info)
  return call('XLEN', log) > 0, call('HLEN', flight) > 0
end

-- Raises NOPERM where the server's access rules forbid a part of a delete, of so many fields where the caller says how many:
-- while others stay, nothing but the fields goes. (Asking costs more than deleting.)
local function must_be_allowed_to_remove(watched, count)
  must_be_allowed('HDEL', info, 'field')
  if not count or call('HLEN', data) <= count then
    must_be_allowed('UNLINK', info)
    must_be_allowed('SREM', registry, name)
  end
  if watched then must_be_allowed('XADD', log, '*', '', '') end
end

-- Makes whoever computes a value for these fields now keep it to himself: what he began from may be what is deleted.
local function forget(fields, first)
  for i = first, #fields do call('HDEL', flight, 'c' .. fields[i], 'e' .. fields[i]) end
end

-- Deletes fields that are there, about 1,000 at most; returns how many keyspace events that fires on the data hash.
local function remove(present, first, last)
  call('HDEL', data, unpack(present, first, last))
  call('HDEL', info, unpack(present, first, last))
  if call('HLEN', data) > 0 then return 1 end
  call('UNLINK', info)
  call('SREM', registry, name)
  return 2
end
