-- Look at a rate limit, without a change, in one step.
--
-- KEYS[1]  the terms and the newest moments, see rate_take.lua (list)
-- Reply    {n, period in ms, moments of the last period, moments that are still to come, ms until the next free moment}; or {} if
--          there is no such list, or one without terms, which an earlier version began
--
-- The moments are sorted, so their numbers are found by halving.

local moments = KEYS[1]
local first = redis.pcall('LINDEX', moments, 0)
if type(first) ~= 'string' then return {} end
local n, period_ms = string.match(first, '^n=(%d+) per=(%d+)$')
if not n then return {} end

local length = redis.call('LLEN', moments)
local function moment(at)
  return tonumber(string.match(redis.call('LINDEX', moments, at) or '', '^%d+') or 0)
end
local function later_than(time) -- the number of moments after a time
  local low, high = 1, length
  while low < high do
    local middle = math.floor((low + high) / 2)
    if moment(middle) > time then high = middle else low = middle + 1 end
  end
  return length - low
end

local reserved, back = string.match(redis.call('LINDEX', moments, -1), '^%d+ (%d+) (%d+)$')
local now = math.max(tonumber(server_time()) + tonumber(back or 0), tonumber(reserved or 0))
local coming = later_than(now)
local before = length > tonumber(n) and moment(-tonumber(n)) or 0
local free = math.max(now, length > 1 and moment(-1) or 0, before > 0 and before + period_ms or 0)
return {tonumber(n), tonumber(period_ms), later_than(now - period_ms) - coming, coming, free - now}
