-- Measure a namespace with its infos, and read both whole if they are so small that reading them here costs little. Precedes
-- infos.lua, of which it is given the keys and the arguments that read all.
--
-- ARGV[1]  see infos.lua: more than ARGV[3]
-- ARGV[2]  read it if it has at most this many fields; -1 only measures, by samples
-- ARGV[3]  and takes at most this many bytes of memory, with the infos; at most 10,000 fields are measured exactly
-- Reply    {number of fields, bytes of memory, or -1 if the server does not report it}; or that of infos.lua with values

local count = redis.call('HLEN', KEYS[1])
local memory, samples = 0, tonumber(ARGV[2]) >= 0 and count <= 10000 and 0 or 1000
for _, key in ipairs(KEYS) do
  local bytes = redis.pcall('MEMORY', 'USAGE', key, 'SAMPLES', samples) or 0
  if type(bytes) ~= 'number' then
    memory = -1
    break
  end
  memory = memory + bytes
end
if count > tonumber(ARGV[2]) or memory < 0 or memory > tonumber(ARGV[3]) then return {count, memory} end
for i = #ARGV, 2, -1 do ARGV[i] = nil end
