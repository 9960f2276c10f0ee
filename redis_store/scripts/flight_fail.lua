-- Gives a claim to compute a value up.
--
-- KEYS  1 flight hash
-- ARGV  1 field   2 token   3 JSON about the error, for those who wait; or '', then one of them claims in turn
-- Reply 1, or 0 where the claim holds no longer
-- Errors  WRONGTYPE
--
-- The first write frees memory, so that a full server takes it, and then the rest of the script too.

local flight, field = KEYS[1], ARGV[1]
local now = now_ms()
local _, _, token = computing(flight, field, now)
if token ~= ARGV[2] then return 0 end
call('HDEL', flight, 'c' .. field)
if ARGV[3] ~= '' then
  call('HSET', flight, 'e' .. field, digits(now) .. ' ' .. ARGV[3])
  if call('PTTL', flight) < ERROR_KEPT_MS then call('PEXPIRE', flight, ERROR_KEPT_MS) end
end
wake(flight, field)
return 1
