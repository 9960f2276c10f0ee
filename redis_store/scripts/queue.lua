-- Stands before the scripts of locks and semaphores: those who wait, first come first served.
--
-- What is given back while somebody waits is kept for the first in the queue for a while ("grace"), under the token that he
-- waits with; he finds it when he looks again. One who has gone without a word costs the others that while, and no more.

local call, match = redis.call, string.match

-- The server's clock, in ms since 1970.
local function now_ms()
  local time = call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Stands at the end of the queue, or keeps the place; returns how many stand before.
local function wait_in(queue, token, keep_ms)
  local place = call('LPOS', queue, token)
  if not place then place = call('RPUSH', queue, token) - 1 end
  call('PEXPIRE', queue, keep_ms)
  return place
end

-- Tells the one who waits with a token that it is his turn. Who may not publish is not heard; the one who waits looks again.
local function wake(key, token)
  redis.pcall('PUBLISH', key, token)
end
