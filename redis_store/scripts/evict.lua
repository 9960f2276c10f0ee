-- Has keys go that a namespace has too many, where one script could not do it in a short time.
--
-- KEYS, ARGV  1 to 4 as in prelude.lua, then as in bound.lua
-- Reply how many are left to go
-- Errors  WRONGTYPE, NOPERM

local left = 0
for _, bound in ipairs(take_bounds()) do
  must_be_allowed_to_evict(bound)
  left = left + evict(bound)
end
return left
