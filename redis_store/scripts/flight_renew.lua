-- Lets a claim to compute a value hold on, if it still does.
--
-- KEYS  1 flight hash   2.. the tags that the value will carry
-- ARGV  1 field   2 token   3 how long it holds, in ms   4 what stands for the field in a tag
-- Reply 1, or 0 where it holds no longer
-- Errors  WRONGTYPE
--
-- The first write frees memory, so that a full server takes it, and then the rest of the script too.

local now = now_ms()
local _, from, token = computing(KEYS[1], ARGV[1], now)
if token ~= ARGV[2] then return 0 end
call('HDEL', KEYS[1], 'c' .. ARGV[1])
claim_for(KEYS[1], ARGV[1], from, token, now, tonumber(ARGV[3]))
for i = 2, #KEYS do put_tag(KEYS[i], ARGV[4], now + tonumber(ARGV[3]), now) end
return 1
