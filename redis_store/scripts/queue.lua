-- Stands between waiters.lua and the scripts of locks and semaphores: the queue of waiters, first come, first served.
--
-- A lock or slot that is released while there are waiters is kept for the first of them for a while, the grace. It is kept under
-- the waiter's token, and the waiter finds it on its next try. A waiter that died costs the others one grace and no more.

-- Joins the end of the queue, or keeps the position. Returns how many waiters are before it.
local function wait_in(queue, token, keep_ms)
  local place = call('LPOS', queue, token)
  if not place then place = call('RPUSH', queue, token) - 1 end
  call('PEXPIRE', queue, keep_ms)
  return place
end

-- Gives a token a slot of a semaphore until `until_ms`, and makes the set of slots expire with its last slot.
local function give_slot(slots, token, until_ms)
  call('ZADD', slots, string.format('%.0f', until_ms), token)
  call('PEXPIREAT', slots, call('ZRANGE', slots, -1, -1, 'WITHSCORES')[2])
end
