-- Reserve the next free moment of a rate limit: any period contains at most n moments.
--
-- KEYS[1]  the terms, 'n=<n> per=<period in ms>'; then the newest moments, in ms since 1970, the newest last (list); some may be in
--          the future. The newest is followed by when it was reserved, and by how far the server's clock has been set back since
--          the first. A list that an earlier version began has no terms until it is full
-- ARGV[1]  n
-- ARGV[2]  the period, in ms
-- ARGV[3]  how long the caller would wait at most, in ms, or '' for no limit
-- ARGV[4]  '1' if the caller may not change the terms
-- Reply    {1, ms until the caller's moment}; or {0, ms until the next free moment}, which was not reserved; or {-1, n, period in ms}
--          of the terms, which are others
--
-- A moment is free one period after the n-th moment before it. A caller that reserves a future moment waits for it without
-- asking again, so no other caller overtakes it.
--
-- The times are the server's, but never go back: what its clock was set back is added. Otherwise moments that were reserved while
-- the clock was ahead would block all callers until the clock is there again.
--
-- A caller that changes the terms begins anew if moments were reserved further ahead than its period: its own terms allow none.

local moments = KEYS[1]
local n, period_ms = tonumber(ARGV[1]), tonumber(ARGV[2])

local terms = 'n=' .. ARGV[1] .. ' per=' .. ARGV[2]
local last, reserved, back = match(call('LINDEX', moments, -1) or '0 0 0', '^(%d+) (%d+) (%d+)$')
local known_n, known_ms = match(call('LINDEX', moments, 0) or '', '^n=(%d+) per=(%d+)$')
local changed = known_n and (tonumber(known_n) ~= n or tonumber(known_ms) ~= period_ms)
if changed and ARGV[4] == '1' then return {-1, tonumber(known_n), tonumber(known_ms)} end

local now = now_ms() + back
if now < tonumber(reserved) then
  back = back + reserved - now
  now = tonumber(reserved)
end
local anew = last == '0' or changed and tonumber(last) > now + period_ms
local before = match(call('LINDEX', moments, -n) or '', '^%d+')
local mine = anew and now or math.max(now, last, before and before + period_ms or 0)
local wait_ms = mine - now
if ARGV[3] ~= '' and wait_ms > tonumber(ARGV[3]) then return {0, wait_ms} end

if anew then call('RPUSH', moments, terms) end
local length = call('RPUSH', moments, string.format('%.0f %.0f %.0f', mine, now, back))
if anew then
  call('LTRIM', moments, -2, -1)
else
  call('LSET', moments, -2, last)
  if length > n then call('LTRIM', moments, -n - 1, -1) end
  if length > n or changed then call('LSET', moments, 0, terms) end
end
call('PEXPIRE', moments, string.format('%.0f', wait_ms + period_ms))
return {1, wait_ms}
