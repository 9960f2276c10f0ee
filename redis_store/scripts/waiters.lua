-- Stands between base.lua and scripts that others may wait for.

-- The server's clock, in ms since 1970.
local function now_ms()
  local time = call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Wakes the waiters with this word. If the login may not publish, they find out by polling.
local function wake(key, word)
  redis.pcall('PUBLISH', key, word)
end
