-- Prefix of the scripts of locks and semaphores: the queue of waiters, first come, first served.
--
-- A lock or slot that is released while there are waiters is kept for the first of them for a while, the grace. It is kept under
-- the waiter's token, and the waiter finds it on its next try. A waiter that died costs the others one grace and no more.

local call, match = redis.call, string.match

-- The server's clock, in ms since 1970.
local function now_ms()
  local time = call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Joins the end of the queue, or keeps the position. Returns how many waiters are before it.
local function wait_in(queue, token, keep_ms)
  local place = call('LPOS', queue, token)
  if not place then place = call('RPUSH', queue, token) - 1 end
  call('PEXPIRE', queue, keep_ms)
  return place
end

-- Wakes the waiter with this token. If the login may not publish, the waiter finds out by polling.
local function wake(key, token)
  redis.pcall('PUBLISH', key, token)
end
