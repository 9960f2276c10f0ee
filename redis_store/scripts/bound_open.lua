-- Stands between bound.lua and a script that writes (with its own prelude), and wraps that script in a function.
--
-- Reply  {the script's own reply, number of keys that evict.lua must still evict}; an error reply is returned as it is

local bounds = take_bounds()
for _, bound in ipairs(bounds) do must_be_allowed_to_evict(bound) end

local function write()
