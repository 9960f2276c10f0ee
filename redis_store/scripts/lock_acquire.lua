-- Acquire a lock, or join its queue.
--
-- KEYS[1]  lock (string)
-- KEYS[2]  the last fencing number of any lock of the user, in the field 'last' (hash)
-- KEYS[3]  queue (list)
-- ARGV[1]  the lock's name
-- ARGV[2]  token of this attempt
-- ARGV[3]  time to live of the lock, in ms
-- ARGV[4]  grace, in ms (queue.lua)
-- ARGV[5]  '1' to join the queue, '' to try only
-- ARGV[6]  the agent's name as a JSON string, or ''
-- Reply    {fencing number}; or {0, ms after which to try again at the latest, position in the queue from 0}
--
-- A fencing number is the server's time in µs since 1970, or the last number plus one if that is higher. So it also grows where
-- the server has lost the last number, or where its clock was set back. It repeats only if both happen.

local lock, fence, queue = KEYS[1], KEYS[2], KEYS[3]
local name, token, ttl_ms, grace_ms, agent = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[6]

local held = call('GET', lock)
local fields = call('HLEN', fence)
local first = call('LINDEX', queue, 0)
local kept_for = held and match(held, '^{"kept_for":"([^"]*)"}$')

if not held and first and first ~= token then
  -- The holder, or the waiter for which the lock was kept, is gone: the first in the queue is next.
  held = '{"kept_for":"' .. first .. '"}'
  call('SET', lock, held, 'PX', grace_ms)
  call('LPOP', queue)
  wake(lock, first)
end
if held and kept_for ~= token then
  if ARGV[5] == '' then return {0, call('PTTL', lock), 0} end
  return {0, call('PTTL', lock), wait_in(queue, token, 10 * grace_ms)}
end

local time, before = call('TIME'), call('HMGET', fence, 'last', name)
local number = time[1] * 1000000 + time[2]
for i = 1, 2 do number = math.max(number, (before[i] or 0) + 1) end
number = string.format('%.0f', number)
local text = '{"fence":' .. number .. ',"owner":"' .. token .. '"' .. (agent ~= '' and ',"agent":' .. agent or '') .. '}'
call('SET', lock, text, 'PX', ttl_ms)
if fields > 1 then call('UNLINK', fence) end -- counters, one for each lock, of an earlier version
call('HSET', fence, 'last', number)
call('LREM', queue, 0, token)
return {tonumber(number)}
