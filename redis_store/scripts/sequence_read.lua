-- Read items of a sequence, and the position for the next item. Follows base.lua and sequence.lua.
--
-- KEYS[1]  data hash
-- KEYS[2]  info hash
-- ARGV[1]  first position; 'last' for the one from which the last items begin, of which ARGV[2] is the number
-- ARGV[2]  position after the last one, '' for the end; about 1,000 items at most are read
-- ARGV[3]  read values if they take at most this many bytes
-- Reply    {position to go on from, position for the next item, array of names, array of values or false}

local MOST = 1000

local first, following = ends_of(KEYS[1], KEYS[2])
local start, stop = tonumber(ARGV[1]), tonumber(ARGV[2]) or following
if not start then start, stop = following - stop, following end
start, stop = math.max(start, first), math.min(stop, following)
local reached = math.max(start, math.min(stop, start + MOST))
local names, bytes = {}, 0
for position = start, reached - 1 do
  local name = name_of(position)
  names[#names + 1] = name
  bytes = bytes + call('HSTRLEN', KEYS[1], name)
end
local digits = {string.format('%.0f', reached), string.format('%.0f', following)}
if #names == 0 then return {digits[1], digits[2], names, names} end
if bytes > tonumber(ARGV[3]) then return {digits[1], digits[2], names, false} end
return {digits[1], digits[2], names, call('HMGET', KEYS[1], unpack(names))}
