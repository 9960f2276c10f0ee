-- Renew a claim to compute a value, if it still holds.
--
-- KEYS[1]   flight hash (flight.lua)
-- KEYS[2..] the tags that the value will carry (sorted sets)
-- ARGV[1]   field
-- ARGV[2]   token
-- ARGV[3]   time to live of the claim, in ms
-- ARGV[4]   the key's member of a tag
-- Reply     1; 0 if the claim no longer holds

local now = now_ms()
local _, from, token = computing(KEYS[1], ARGV[1], now)
if token ~= ARGV[2] then return 0 end
call('HDEL', KEYS[1], 'c' .. ARGV[1])
claim_for(KEYS[1], ARGV[1], from, token, now, tonumber(ARGV[3]))
for i = 2, #KEYS do tag(KEYS[i], ARGV[4], digits(now + tonumber(ARGV[3])), digits(now)) end
return 1
