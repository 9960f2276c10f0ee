-- Follows write.lua and tags.lua: moves the members of the fields that have tags. The functions of tags.lua cost other writes
-- nothing here.
for field, tags in pairs(tagged) do
  local member = #name .. ':' .. name .. ':' .. field
  for key in pairs(cjson.decode(tags)) do pcall(tag, key, member, expires, now_ms) end
end
return 1
