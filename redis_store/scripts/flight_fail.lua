-- Give up a claim to compute a value.
--
-- KEYS[1]  flight hash (flight.lua)
-- ARGV[1]  field
-- ARGV[2]  token
-- ARGV[3]  JSON about the error, for the waiters; '' lets one of them claim in turn
-- Reply    1; 0 if the claim no longer holds

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
