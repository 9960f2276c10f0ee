-- Acquire a lock, or join its queue.
--
-- KEYS[1]  lock (string)
-- KEYS[2]  the last fencing number of any lock of the user, in the field 'last' (hash)
-- KEYS[3]  queue (list)
-- KEYS[4]  the last try of each waiter, in ms since 1970, by its token (hash)
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

local lock, fence, queue, tries = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local name, token, ttl_ms, grace_ms, agent = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[6]

local held = call('GET', lock)
local kept_for = held and match(held, '^{"kept_for":"([^"]*)"}$')
local waiting = call('LLEN', queue)
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local first, before = nil, 0
if waiting > 0 then
  call('HLEN', tries)
  if not held then first, before = first_in(queue, tries, now - grace_ms, token) end
end

if first and first ~= token then
  -- The holder, or the waiter for which the lock was kept, is gone: the first in the queue is next.
  held = '{"kept_for":"' .. first .. '"}'
  call('SET', lock, held, 'PX', grace_ms)
  remove(queue, tries, before, first)
  wake(lock, first)
end
if held and kept_for ~= token then
  if ARGV[5] == '' then return {0, call('PTTL', lock), 0} end
  return {0, call('PTTL', lock), wait_in(queue, tries, token, now, 10 * grace_ms)}
end

local numbers = call('HMGET', fence, 'last', name)
local number = time[1] * 1000000 + time[2]
for i = 1, 2 do number = math.max(number, (numbers[i] or 0) + 1) end
number = string.format('%.0f', number)
local text = '{"fence":' .. number .. ',"owner":"' .. token .. '"' .. (agent ~= '' and ',"agent":' .. agent or '') .. '}'
call('SET', lock, text, 'PX', ttl_ms)
if numbers[2] then call('UNLINK', fence) end -- counters, one for each lock, of an earlier version
call('HSET', fence, 'last', number)
if waiting > 0 then remove(queue, tries, before, token) end
return {tonumber(number)}
