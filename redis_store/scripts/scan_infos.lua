-- Read a page of a namespace's keys with values, infos and expiries, all at one moment.
--
-- KEYS[1]  data hash
-- KEYS[2]  info hash
-- ARGV[1]  cursor
-- ARGV[2]  glob pattern
-- ARGV[3]  COUNT of HSCAN
-- Reply    {next cursor, array of fields and values in turn, array of infos, array of expiries as in infos.lua}

local page = redis.call('HSCAN', KEYS[1], ARGV[1], 'MATCH', ARGV[2], 'COUNT', ARGV[3])
local infos, expiries = {}, {}
for i = 1, #page[2], 2 do
  local field = page[2][i]
  local times = redis.pcall('HPEXPIRETIME', KEYS[1], 'FIELDS', 1, field)
  infos[#infos + 1] = redis.call('HGET', KEYS[2], field)
  expiries[#expiries + 1] = times and not times.err and times[1] or -1
end
return {page[1], page[2], infos, expiries}
