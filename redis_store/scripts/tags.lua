-- Stands before scripts that tag values, or change for how long a tagged value lives.
--
-- A tag is a sorted set with a member for each value that carries it, '<length of the namespace's name>:<name>:<field>', scored
-- with the ms since 1970 at which the value expires. The set expires with its last member. A key's info has the Redis keys of
-- its tags (info_text.lua), so that a write which lets the value live longer also moves its members. No caller knows them, so
-- these are keys that scripts do not get in KEYS. Such a write is done before that, and does not fail if somebody has
-- put something else in place of a tag (pcall).
--
-- Deleting a value leaves its members: it would have to read the info of each key first. So each tag is listed, by its Redis
-- key, in a sorted set beside the tags, '...:tags', scored with the ms since 1970 at which it was last swept; and claims of values
-- with tags sweep (sweep_tags.lua).

local function registry_of(key)
  return (match(key, '^user:[^:]*:own:[^:]*:') or match(key, '^user:[^:]*:')) .. 'tags'
end

-- Returns the tags in a key's info, as info_text.lua writes them, or nil.
local function tags_in(text)
  local at = find(text, '":{', 1, true)
  return at and sub(text, at - 6, at - 1) == ',"tags' and match(text, '^{[^}]*}', at + 2) or nil
end

local EXPIRED_AT_ONCE = 10 -- expired members that are deleted from a tag at once, so that a call with a thousand tags ends soon

-- Records that a value carries a tag until it expires (digits; '' for never), and deletes some of the tag's expired members.
-- Members are counted and deleted by rank, and no other one is read: a key may be long.
local function tag(key, member, expires, now)
  local old = math.min(call('ZCOUNT', key, '-inf', now), EXPIRED_AT_ONCE)
  if old > 0 then redis.pcall('ZREMRANGEBYRANK', key, 0, old - 1) end -- they do no harm if the login may not
  local added = call('ZADD', key, 'GT', expires == '' and '+inf' or expires, member)
  if added == 1 then redis.pcall('ZADD', registry_of(key), 'NX', now, key) end
  if expires == '' then
    call('PERSIST', key)
  elseif call('ZCOUNT', key, '(' .. expires, '+inf') == 0 then
    call('PEXPIREAT', key, expires)
  end
end
