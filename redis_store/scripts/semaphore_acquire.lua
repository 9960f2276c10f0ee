-- Acquire a slot of a semaphore, or join its queue.
--
-- KEYS[1]  tokens that hold a slot, scored by the expiry in ms since 1970 (sorted set)
-- KEYS[2]  queue (list)
-- ARGV[1]  token of this attempt
-- ARGV[2]  number of slots
-- ARGV[3]  time to live of the slot, in ms
-- ARGV[4]  grace, in ms (queue.lua)
-- ARGV[5]  '1' to join the queue, '' to try only
-- Reply    {1}; or {0, ms after which to try again at the latest, position in the queue from 0}

local slots, queue = KEYS[1], KEYS[2]
local token, ttl_ms, grace_ms = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])

call('ZCARD', slots)
local first = call('LINDEX', queue, 0)
local now = now_ms()

-- The first write never frees memory, so a full server refuses it and the script changes nothing.
local living = '(' .. string.format('%.0f', now)
local free = tonumber(ARGV[2]) - call('ZCOUNT', slots, living, '+inf')
local kept = tonumber(call('ZSCORE', slots, token) or 0) > now
while not kept and free > 0 and first and first ~= token do
  give_slot(slots, first, now + grace_ms)
  wake(slots, first)
  call('LPOP', queue)
  free = free - 1
  first = call('LINDEX', queue, 0)
end
if kept or free > 0 then
  give_slot(slots, token, now + ttl_ms)
  call('LREM', queue, 0, token)
  call('ZREMRANGEBYSCORE', slots, '-inf', string.format('%.0f', now))
  return {1}
end

local next = call('ZRANGEBYSCORE', slots, living, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
local wait_ms = math.max(1, tonumber(next[2] or now) - now)
if ARGV[5] == '' then return {0, wait_ms, 0} end
return {0, wait_ms, wait_in(queue, token, 10 * grace_ms)}
