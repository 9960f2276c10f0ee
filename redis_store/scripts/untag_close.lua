-- Follows delete.lua: removes the deleted fields from the tag in the same step, so that a later tagging is not undone.
-- If the delete fails, this is not reached, and the tag still lists what to delete.
end

local deleted = delete()
local prefix, PART = #ARGV[1] .. ':' .. ARGV[1] .. ':', 1000
local members = {}
for i = 6, #ARGV do
  members[#members + 1] = prefix .. ARGV[i]
  if #members == PART or i == #ARGV then
    redis.call('ZREM', KEYS[6], unpack(members))
    members = {}
  end
end
return deleted
