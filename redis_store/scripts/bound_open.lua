-- Stands between bound.lua and a script that writes, whole with its own prelude: it becomes a function.
--
-- Reply {the script's own reply, how many keys are left to go: evict.lua}; an error reply as it is

local bounds = take_bounds()
for _, bound in ipairs(bounds) do must_be_allowed_to_evict(bound) end

local function write()
