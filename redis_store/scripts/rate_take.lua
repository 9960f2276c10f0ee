-- Reserve the next free moment of a rate limit: any period contains at most n moments.
--
-- KEYS[1]  the newest moments, in ms since 1970, the newest last (list); some may be in the future. The newest is followed by when
--          it was reserved, and by how far the server's clock has been set back since the first
-- ARGV[1]  n
-- ARGV[2]  the period, in ms
-- ARGV[3]  how long the caller would wait at most, in ms, or '' for no limit
-- Reply    {1, ms until the caller's moment}; or {0, ms until the next free moment}, which was not reserved
--
-- A moment is free one period after the n-th moment before it. A caller that reserves a future moment waits for it without
-- asking again, so no other caller overtakes it.
--
-- The times are the server's, but never go back: what its clock was set back is added. Otherwise moments that were reserved while
-- the clock was ahead would block all callers until the clock is there again.

local moments = KEYS[1]
local n, period_ms = tonumber(ARGV[1]), tonumber(ARGV[2])

local last, reserved, back = match(call('LINDEX', moments, -1) or '0 0 0', '^(%d+) (%d+) (%d+)$')
local now = now_ms() + back
if now < tonumber(reserved) then
  back = back + reserved - now
  now = tonumber(reserved)
end
local before = match(call('LINDEX', moments, -n) or '', '^%d+')
local mine = math.max(now, last, before and before + period_ms or 0)
local wait_ms = mine - now
if ARGV[3] ~= '' and wait_ms > tonumber(ARGV[3]) then return {0, wait_ms} end

call('RPUSH', moments, string.format('%.0f %.0f %.0f', mine, now, back))
call('LTRIM', moments, -n, -1)
if n > 1 and last ~= '0' then call('LSET', moments, -2, last) end
call('PEXPIRE', moments, string.format('%.0f', wait_ms + period_ms))
return {1, wait_ms}
