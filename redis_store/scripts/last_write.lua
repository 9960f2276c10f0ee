-- Find the time of the last write in a page of a namespace's info. Follows base.lua and times.lua.
--
-- KEYS[1]  info hash
-- ARGV[1]  cursor
-- ARGV[2]  fields of the page, about
-- Reply    {cursor of the next page, '0' after the last or for another type; ms since 1970, 0 for none}

local page = redis.pcall('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
if page.err then return {'0', '0'} end
local flat, last = page[2], 0
for i = 2, #flat, 2 do
  local _, written = times_in(flat[i])
  if written then last = math.max(last, tonumber(sub(written, 1, -4))) end
end
return {page[1], string.format('%.0f', last)}
