-- Precedes delete.lua (with its own prelude) and wraps it in a function: deletes values that carry a tag.
--
-- KEYS[1-5]  see remove.lua
-- KEYS[6]    the tag (sorted set)
-- ARGV, reply, errors: see delete.lua

redis.call('ZCARD', KEYS[6])
if redis.acl_check_cmd and not redis.acl_check_cmd('ZREM', KEYS[6], 'member') then
  return redis.error_reply('NOPERM this user has no permissions for ZREM on a tag')
end

local function delete()
