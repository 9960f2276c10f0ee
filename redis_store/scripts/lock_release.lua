-- Release a lock if this token holds it, and keep it for the first in the queue; or leave the queue.
--
-- KEYS[1]  lock (string)
-- KEYS[2]  queue (list)
-- KEYS[3]  the last try of each waiter, in ms since 1970, by its token (hash)
-- ARGV[1]  token
-- ARGV[2]  grace, in ms (queue.lua)
-- Reply    1; 0 if the token does not hold the lock

local lock, queue, tries, token = KEYS[1], KEYS[2], KEYS[3], ARGV[1]
local held = call('GET', lock)
local waiting = call('LLEN', queue)
if waiting > 0 then
  call('HLEN', tries)
  remove(queue, tries, 0, token)
end

local owned = held and find(held, '"owner":"' .. token .. '"', 1, true)
if not owned and held ~= '{"kept_for":"' .. token .. '"}' then return 0 end
call('DEL', lock)
if waiting > 0 then
  local first, before = first_in(queue, tries, now_ms() - ARGV[2])
  remove(queue, tries, before, first or token)
  if first then
    call('SET', lock, '{"kept_for":"' .. first .. '"}', 'PX', ARGV[2])
    wake(lock, first)
  end
end
return owned and 1 or 0
