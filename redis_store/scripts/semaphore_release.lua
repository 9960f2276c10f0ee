-- Gives a semaphore's place back, and keeps it for the first in the queue; or leaves the queue.
--
-- KEYS  1 sorted set of those who have a place   2 queue list
-- ARGV  1 token   2 grace in ms (queue.lua)
-- Reply 1, or 0 where there was no place, or it had lapsed
-- Errors  WRONGTYPE
--
-- The first write frees memory, so that a full server takes it, and then the rest of the script too.

local places, queue = KEYS[1], KEYS[2]
local token = ARGV[1]
local until_ms = call('ZSCORE', places, token)
call('LLEN', queue)
local now = now_ms()

call('LREM', queue, 0, token)
if not until_ms then return 0 end
call('ZREM', places, token)
local first = call('LPOP', queue)
if first then
  call('ZADD', places, string.format('%.0f', now + ARGV[2]), first)
  local last = call('ZRANGE', places, -1, -1, 'WITHSCORES')
  call('PEXPIREAT', places, last[2])
  wake(places, first)
end
return tonumber(until_ms) > now and 1 or 0
