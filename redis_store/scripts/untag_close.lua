-- Stands behind delete.lua: what was deleted goes from the tag, at the same moment, so that who tags it anew is not undone.
-- Where deleting fails this is not reached, and the tag still says what is to go.
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
