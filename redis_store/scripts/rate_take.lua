-- Takes the next free moment of a rate limit: at most n moments lie in any period.
--
-- KEYS  1 list of the newest moments, in ms since 1970, the newest last; some may be yet to come
-- ARGV  1 n   2 the period in ms   3 how long the caller would wait at most, in ms, or '' for any time
-- Reply {1, ms until the moment that is now the caller's}; or {0, ms until there would have been one}
-- Errors  WRONGTYPE
--
-- A moment is free one period after the n-th before it. Whoever takes one that is yet to come waits for it without asking
-- again, so that nobody overtakes him.

local moments = KEYS[1]
local n, period_ms = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local last = tonumber(redis.call('LINDEX', moments, -1) or 0)
local before = redis.call('LINDEX', moments, -n)
-- The moments stay in order also where the clock has been set back.
local mine = math.max(now, last, before and before + period_ms or 0)
local wait_ms = mine - now
if ARGV[3] ~= '' and wait_ms > tonumber(ARGV[3]) then return {0, wait_ms} end

redis.call('RPUSH', moments, string.format('%.0f', mine))
redis.call('LTRIM', moments, -n, -1)
redis.call('PEXPIREAT', moments, string.format('%.0f', mine + period_ms))
return {1, wait_ms}
