-- Empties a namespace: data, info, the registry's entry, and one log entry that says so.
--
-- KEYS, ARGV 1 to 4  as in prelude.lua
-- Reply how many keys there were (fields that have expired and are not yet reaped count)
-- Errors  WRONGKEY <position in KEYS>: it holds another type
--
-- The first write frees memory, so that a full server takes it, and then the rest of the script too.

local refusal, fields, _, watched = look()
if refusal then return refusal end

redis.call('UNLINK', data)
redis.call('UNLINK', info)
redis.call('SREM', registry, name)
-- No key is empty, so a pair with an empty field behind the head can only be this one.
if watched and fields > 0 then tell(1, '', {'', 'c'}, 1) end
return fields
