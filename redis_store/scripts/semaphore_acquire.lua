-- Acquire a slot of a semaphore, or join its queue.
--
-- KEYS[1]  tokens that hold a slot, scored by the expiry in ms since 1970; and 'n', scored by the number of slots (sorted set)
-- KEYS[2]  queue (list)
-- KEYS[3]  the last try of each waiter, in ms since 1970, by its token (hash)
-- ARGV[1]  token of this attempt
-- ARGV[2]  number of slots
-- ARGV[3]  time to live of the slot, in ms
-- ARGV[4]  grace, in ms (queue.lua)
-- ARGV[5]  '1' to join the queue, '' to try only
-- ARGV[6]  '1' if the caller may not change the number of slots while one is held
-- Reply    {1}; or {0, ms after which to try again at the latest, position in the queue from 0}; or {-1, number of slots}, which is
--          another one

local slots, queue, tries = KEYS[1], KEYS[2], KEYS[3]
local token, ttl_ms, grace_ms = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])

call('ZCARD', slots)
local waiting = call('LLEN', queue)
if waiting > 0 then call('HLEN', tries) end
local now = now_ms()

-- The first write never frees memory, so a full server refuses it and the script changes nothing.
local living = '(' .. string.format('%.0f', now)
local n, held = tonumber(ARGV[2]), call('ZCOUNT', slots, living, '+inf')
local known = tonumber(call('ZSCORE', slots, 'n') or n)
if ARGV[6] == '1' and held > 0 and known ~= n then return {-1, known} end
local free = n - held
local kept = tonumber(call('ZSCORE', slots, token) or 0) > now
local before = 0
while waiting > 0 and not kept and free > 0 do
  local first
  first, before = first_in(queue, tries, now - grace_ms, token)
  if not first or first == token then break end
  give_slot(slots, first, now + grace_ms)
  wake(slots, first)
  remove(queue, tries, before, first)
  before, free = 0, free - 1
end
if kept or free > 0 then
  give_slot(slots, token, now + ttl_ms)
  if waiting > 0 then remove(queue, tries, before, token) end
  call('ZREMRANGEBYSCORE', slots, '-inf', string.format('%.0f', now))
  call('ZADD', slots, n, 'n')
  return {1}
end

local next = call('ZRANGEBYSCORE', slots, living, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
local wait_ms = math.max(1, tonumber(next[2] or now) - now)
if ARGV[5] == '' then return {0, wait_ms, 0} end
return {0, wait_ms, wait_in(queue, tries, token, now, 10 * grace_ms)}
