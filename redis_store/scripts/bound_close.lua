-- Follows a script that bound.lua has wrapped in a function: runs it, then evicts keys to make room.
end

-- A full server or a replica refuses the write itself, and then nothing has changed. Neither refuses the deletes.
local reply = write()
if type(reply) == 'table' and reply.err then return reply end
if type(reply) == 'table' or reply == 0 then return {reply, 0, 0} end -- nothing was written, see each script's reply
local left = 0
for _, bound in ipairs(bounds) do left = left + evict(bound) end
return {reply, left, moved}
