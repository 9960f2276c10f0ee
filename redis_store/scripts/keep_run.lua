-- Keep the record of a run, and drop records over the user's bounds: the oldest ones of the agent that has the most, so that no
-- agent's runs push out those of others. Follows base.lua.
--
-- KEYS[1]  index of the user's kept runs (hash): '<µs when kept> <ms when it expires> <bytes> <agent> <summary>' by run id
-- KEYS[2]  the run's record (hash). Those of other runs have the same name but for the id at its end
-- ARGV[1]  run id
-- ARGV[2]  agent, without spaces
-- ARGV[3]  summary
-- ARGV[4]  bytes that the record counts
-- ARGV[5]  record
-- ARGV[6]  ids of nested runs
-- ARGV[7]  ms for which the record is kept
-- ARGV[8]  bound on the records of the user
-- ARGV[9]  bound on their bytes
-- ARGV[10] bound on the records that one script drops
-- Reply    1 if all bounds are kept, 0 if the script must be called again

local id, agent, time = ARGV[1], ARGV[2], call('TIME')
local micros = time[1] .. sub('00000' .. time[2], -6)
local now = tonumber(sub(micros, 1, -4))
local most_runs, most_bytes, left = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
local head = sub(KEYS[2], 1, -#id - 1)
local agents, runs, bytes = {}, 0, 0

local function count(whose, run, kept, size)
  local own = agents[whose]
  if not own then
    own = {count = 0, bytes = 0}
    agents[whose] = own
  end
  own[#own + 1] = {run, kept, size}
  own.count, own.bytes = own.count + 1, own.bytes + size
  runs, bytes = runs + 1, bytes + size
end

-- The place of the oldest record of an agent, which is found anew only when one has gone.
local function oldest(own)
  if not own.first then
    for place, record in ipairs(own) do
      if not own.first or record[2] < own[own.first][2] then own.first = place end
    end
  end
  return own[own.first]
end

local gone = {}
local index = call('HGETALL', KEYS[1])
call('HLEN', KEYS[2])
for i = 1, #index, 2 do
  local kept, expires, size, whose = match(index[i + 1], '^(%d+) (%d+) (%d+) (%S*) ')
  if index[i] ~= id then
    if kept and tonumber(expires) > now then
      count(whose, index[i], tonumber(kept), tonumber(size))
    else
      gone[#gone + 1] = index[i]
    end
  end
end
count(agent, id, math.huge, tonumber(ARGV[4])) -- the new run is the last one to go

local dropped = 0
while (runs > most_runs or bytes > most_bytes) and runs > 1 and dropped < left do
  local worst, most = nil, -1
  for _, own in pairs(agents) do
    local has = runs > most_runs and own.count or own.bytes
    if has >= most and own.count > 0 and oldest(own)[1] ~= id then
      if has > most or oldest(own)[2] < oldest(worst)[2] then worst, most = own, has end
    end
  end
  local record = table.remove(worst, worst.first)
  worst.first, worst.count, worst.bytes = nil, worst.count - 1, worst.bytes - record[3]
  runs, bytes, dropped = runs - 1, bytes - record[3], dropped + 1
  gone[#gone + 1] = record[1]
end

local expires = string.format('%.0f', now + ARGV[7])
call('HSET', KEYS[2], 'record', ARGV[5], 'nested', ARGV[6])
call('PEXPIRE', KEYS[2], ARGV[7])
call('HSET', KEYS[1], id, micros .. ' ' .. expires .. ' ' .. ARGV[4] .. ' ' .. agent .. ' ' .. ARGV[3])
for i = 1, #gone do
  call('HDEL', KEYS[1], gone[i])
  call('UNLINK', head .. gone[i])
end
if call('PTTL', KEYS[1]) < tonumber(ARGV[7]) then call('PEXPIRE', KEYS[1], ARGV[7]) end
return (runs > most_runs or bytes > most_bytes) and runs > 1 and 0 or 1
