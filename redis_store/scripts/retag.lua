-- Enter keys in their tags under the name that their namespace has or gets, one page of them.
--
-- KEYS[1]  data hash, for when they expire
-- KEYS[2]  info hash
-- ARGV[1]  the namespace's name
-- ARGV[2]  cursor of the page
-- ARGV[3]  size of the page
-- Reply    {cursor of the next page, number of keys that have tags}

local page, tagged, now = call('HSCAN', KEYS[2], ARGV[2], 'COUNT', ARGV[3]), 0, server_time()
for i = 1, #page[2], 2 do
  local field, tags = page[2][i], tags_in(page[2][i + 1])
  if tags then
    tagged = tagged + 1
    local member = #ARGV[1] .. ':' .. ARGV[1] .. ':' .. field
    local life = redis.pcall('HPEXPIRETIME', KEYS[1], 'FIELDS', 1, field)
    local expires = not life.err and (life[1] or -1) > 0 and string.format('%.0f', life[1]) or ''
    for key in pairs(cjson.decode(tags)) do pcall(tag, key, member, expires, now) end
  end
end
return {page[1], tagged}
