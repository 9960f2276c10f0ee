-- Reserve the next free moment of a rate limit: any period contains at most n moments.
--
-- KEYS[1]  the newest moments, in ms since 1970, the newest last (list); some may be in the future
-- ARGV[1]  n
-- ARGV[2]  the period, in ms
-- ARGV[3]  how long the caller would wait at most, in ms, or '' for no limit
-- Reply    {1, ms until the caller's moment}; or {0, ms until the next free moment}, which was not reserved
--
-- A moment is free one period after the n-th moment before it. A caller that reserves a future moment waits for it without
-- asking again, so no other caller overtakes it.

local moments = KEYS[1]
local n, period_ms = tonumber(ARGV[1]), tonumber(ARGV[2])
local now = now_ms()

local last = tonumber(call('LINDEX', moments, -1) or 0)
local before = call('LINDEX', moments, -n)
-- The moments stay in order even if the clock has been set back.
local mine = math.max(now, last, before and before + period_ms or 0)
local wait_ms = mine - now
if ARGV[3] ~= '' and wait_ms > tonumber(ARGV[3]) then return {0, wait_ms} end

call('RPUSH', moments, string.format('%.0f', mine))
call('LTRIM', moments, -n, -1)
call('PEXPIREAT', moments, string.format('%.0f', mine + period_ms))
return {1, wait_ms}
