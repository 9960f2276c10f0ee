-- Release a lock if this token holds it, and keep it for the first in the queue; or leave the queue.
--
-- KEYS[1]  lock (string)
-- KEYS[2]  queue (list)
-- ARGV[1]  token
-- ARGV[2]  grace, in ms (queue.lua)
-- Reply    1; 0 if the token does not hold the lock

local lock, queue, token = KEYS[1], KEYS[2], ARGV[1]
local held = call('GET', lock)
call('LLEN', queue)

call('LREM', queue, 0, token)
local owned = held and find(held, '"owner":"' .. token .. '"', 1, true)
if not owned and held ~= '{"kept_for":"' .. token .. '"}' then return 0 end
call('DEL', lock)
local first = call('LPOP', queue)
if first then
  call('SET', lock, '{"kept_for":"' .. first .. '"}', 'PX', ARGV[2])
  wake(lock, first)
end
return owned and 1 or 0
