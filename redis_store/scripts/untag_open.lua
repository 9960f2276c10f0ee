-- Stands before delete.lua, whole with its own prelude, which becomes a function: deletes values that carry a tag.
--
-- KEYS  1 to 5  as in remove.lua   6 the tag
-- ARGV, reply, errors  as in delete.lua

redis.call('ZCARD', KEYS[6])
if redis.acl_check_cmd and not redis.acl_check_cmd('ZREM', KEYS[6], 'member') then
  return redis.error_reply('NOPERM this user has no permissions for ZREM on a tag')
end

local function delete()
