-- Stands between waiters.lua and the scripts of locks and semaphores: the queue of waiters, first come, first served.
--
-- A lock or slot that is released while there are waiters is kept for the first of them for a while, the grace. It is kept under
-- the waiter's token, and the waiter finds it on its next try. A waiter that has not tried for the length of a grace is skipped,
-- as it is most likely dead. So the waiters of a process that died cost the others one grace together.

local MOST_WAITERS = 10000 -- further ones only try again, so that a script never walks over more that are dead

-- Joins the end of the queue, or keeps the position, and notes when. Returns how many waiters are before it.
local function wait_in(queue, tries, token, now, keep_ms)
  local place = call('LPOS', queue, token)
  if not place and call('LLEN', queue) >= MOST_WAITERS then return MOST_WAITERS end
  call('HSET', tries, token, string.format('%.0f', now))
  if not place then place = call('RPUSH', queue, token) - 1 end
  call('PEXPIRE', queue, keep_ms)
  call('PEXPIRE', tries, keep_ms)
  return place
end

-- Returns the first waiter that has tried since a time or is the caller, nil if there is none; and how many are before it.
-- A waiter of an earlier version does not note its tries.
local function first_in(queue, tries, since, token)
  local before = 0
  while true do
    local first = call('LINDEX', queue, before)
    if not first then return nil, before end
    local at = first ~= token and call('HGET', tries, first)
    if not at or tonumber(at) > since then return first, before end
    before = before + 1
  end
end

-- Removes some waiters from the front of the queue, and the caller.
local function remove(queue, tries, count, token)
  for _ = 1, count do call('HDEL', tries, call('LPOP', queue)) end
  call('LREM', queue, 0, token)
  call('HDEL', tries, token)
end

-- Gives a token a slot of a semaphore until `until_ms`, and makes the set of slots expire with its last slot.
local function give_slot(slots, token, until_ms)
  call('ZADD', slots, string.format('%.0f', until_ms), token)
  call('PEXPIREAT', slots, call('ZRANGE', slots, -1, -1, 'WITHSCORES')[2])
end
