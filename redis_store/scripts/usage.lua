-- Measure namespaces: the memory that the server takes for their data, info, claims, change logs and watchers' states.
--
-- KEYS     for each namespace: data hash, info hash, claims (hash), change log (stream), state saved by the last watcher (string)
-- ARGV[1]  measure each field of a hash with up to this many; of a bigger one so many fields, from which the rest is estimated
-- ARGV[2]  stop after a namespace once this many fields are measured, so that other clients are served
-- Reply    array of bytes, for the first namespaces at least; -1 if the server does not report them

local sampled, most = tonumber(ARGV[1]), tonumber(ARGV[2])
local found, measured = {}, 0
for i = 1, #KEYS, 5 do
  if measured >= most then break end
  local fields = redis.pcall('HLEN', KEYS[i])
  fields = type(fields) == 'number' and math.min(fields, sampled) or 1
  measured = measured + 2 * fields
  local bytes = 0
  for j = i, i + 4 do
    local one = redis.pcall('MEMORY', 'USAGE', KEYS[j], 'SAMPLES', math.max(fields, 5))
    if type(one) == 'table' then return {-1} end
    bytes = bytes + (one or 0)
  end
  found[#found + 1] = bytes
end
return found
