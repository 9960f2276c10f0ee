-- Read the last item of a sequence, or delete it if it is what was read. Follows prelude.lua, remove.lua and sequence.lua.
--
-- KEYS[1-5], ARGV[1-4]  see prelude.lua and remove.lua
-- ARGV[5]   name that the caller has read, or '' to read
-- ARGV[6]   the bytes that it has read and decoded, so that nothing is deleted unread
-- ARGV[7]   limit of the value, in bytes: it is copied
-- Reply     1 if it was deleted; else {name, the stored bytes}; {} for an empty sequence; {name, false, bytes} over the limit

local first, following = ends_of(data, info)
local tries = 0
while following > first and call('HEXISTS', data, name_of(following - 1)) == 0 do
  following, tries = following - 1, tries + 1
  if tries > 1000 then
    call('HDEL', info, '') -- the hint is far from right
    first, following = ends_of(data, info)
  end
end
if following <= first then return {} end
local name = name_of(following - 1)
local bytes = call('HSTRLEN', data, name)
if bytes > tonumber(ARGV[7]) then return {name, false, bytes} end
local value = call('HGET', data, name)
if name ~= ARGV[5] or value ~= ARGV[6] then return {name, value} end

look_around()
must_be_allowed_to_remove(1)
forget({name}, 1)
local events = remove({name}, 1, 1)
if events == 1 then
  local expires = redis.pcall('HPEXPIRETIME', info, 'FIELDS', 1, '')
  call('HSET', info, '', string.format('%.0f %.0f', first, following - 1))
  if not expires.err and (expires[1] or -1) > 0 then
    call('HPEXPIREAT', info, string.format('%.0f', expires[1]), 'FIELDS', 1, '')
  end
end
if watched then tell(events, '', {name, 'd'}) end
return 1
