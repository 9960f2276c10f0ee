-- Stands behind a script that bound_open.lua has made a function: runs it, and then has keys go for what it wrote.
end

-- A full server, or a replica, refuses the write itself: then nothing has happened. Deleting is refused by neither of them.
local reply = write()
if type(reply) == 'table' and reply.err then return reply end
local left = 0
for _, bound in ipairs(bounds) do left = left + evict(bound) end
return {reply, left}
