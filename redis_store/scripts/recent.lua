-- Find the infos of keys that were written since a time, in a page of a namespace's info. Follows base.lua and times.lua.
--
-- KEYS[1]  info hash
-- ARGV[1]  cursor
-- ARGV[2]  fields of the page, about
-- ARGV[3]  ms since 1970
-- Reply    {cursor of the next page, '0' after the last or for another type; array of fields and infos in turn}

local page = redis.pcall('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
if page.err then return {'0', {}} end
local flat, since, found = page[2], tonumber(ARGV[3]), {}
for i = 2, #flat, 2 do
  local _, written = times_in(flat[i])
  if written and tonumber(sub(written, 1, -4)) >= since then
    found[#found + 1] = flat[i - 1]
    found[#found + 1] = flat[i]
  end
end
return {page[1], found}
