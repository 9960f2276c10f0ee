-- Evict the keys that exceed a namespace's bound, if one script had too many to evict in a short time.
--
-- KEYS[1-4], ARGV[1-4]  see prelude.lua
-- ARGV[5..] see bound.lua
-- Reply     number of keys that remain to be evicted
-- Errors    WRONGTYPE, NOPERM

local left = 0
for _, bound in ipairs(take_bounds()) do
  must_be_allowed_to_evict(bound)
  left = left + evict(bound)
end
return left
