-- Takes a lock, or stands in its queue.
--
-- KEYS  1 lock string   2 hash of fencing counters   3 queue list
-- ARGV  1 the lock's name   2 token of this try to take it   3 time to live in ms   4 grace in ms (queue.lua)
--       5 '1' to stand in the queue, '' only to try   6 the agent's name as a JSON string, or ''
-- Reply {fencing number}; or {0, ms after which to look again at the latest, place in the queue}
-- Errors  WRONGTYPE
--
-- The counter outlives the lock: a number is never given twice, and a later holder's is higher.

local lock, fence, queue = KEYS[1], KEYS[2], KEYS[3]
local name, token, ttl_ms, grace_ms, agent = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[6]

local held = call('GET', lock)
call('HLEN', fence)
local first = call('LINDEX', queue, 0)
local kept_for = held and match(held, '^{"kept_for":"([^"]*)"}$')

if not held and first and first ~= token then
  -- Whoever had it, or was to have it, is gone: it is the first one's turn.
  held = '{"kept_for":"' .. first .. '"}'
  call('SET', lock, held, 'PX', grace_ms)
  call('LPOP', queue)
  wake(lock, first)
end
if held and kept_for ~= token then
  if ARGV[5] == '' then return {0, call('PTTL', lock), 0} end
  local place = wait_in(queue, token, 10 * grace_ms)
  return {0, call('PTTL', lock), place}
end

local number = call('HINCRBY', fence, name, 1)
local text = '{"fence":' .. number .. ',"owner":"' .. token .. '"' .. (agent ~= '' and ',"agent":' .. agent or '') .. '}'
call('SET', lock, text, 'PX', ttl_ms)
call('LREM', queue, 0, token)
return {number}
