-- Measure what a write replaces: the values of some fields. In a watched namespace it replaces nothing, because the log grows.
--
-- KEYS[1]  data hash
-- KEYS[2]  change log (stream)
-- ARGV     the fields
-- Reply    {number of the fields that exist, bytes of their names, bytes of their values}

local fields, names, values = 0, 0, 0
if redis.call('EXISTS', KEYS[2]) == 0 then
  for _, field in ipairs(ARGV) do
    local bytes = redis.call('HSTRLEN', KEYS[1], field)
    if bytes > 0 then fields, names, values = fields + 1, names + #field, values + bytes end
  end
end
return {fields, names, values}
