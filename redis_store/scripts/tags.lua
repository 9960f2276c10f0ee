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

-- Records that a value carries a tag until it expires (digits; '' for never), and deletes some of the tag's expired members.
local function tag(key, member, expires, now)
  local old = call('ZRANGEBYSCORE', key, '-inf', now, 'LIMIT', 0, 100)
  if #old > 0 then call('ZREM', key, unpack(old)) end
  local known = call('ZSCORE', key, member)
  if not known then redis.pcall('ZADD', registry_of(key), 'NX', now, key) end
  if expires == '' then
    call('ZADD', key, '+inf', member)
    call('PERSIST', key)
    return
  end
  if not known or (known ~= 'inf' and tonumber(expires) > tonumber(known)) then call('ZADD', key, expires, member) end
  local last = call('ZRANGE', key, -1, -1, 'WITHSCORES')[2]
  if last ~= 'inf' then call('PEXPIREAT', key, string.format('%.0f', tonumber(last))) end
end
