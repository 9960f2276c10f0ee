-- Stands before every script that writes: the keys of a namespace, and what all such scripts do alike.
--
-- KEYS  1 data hash   2 registry set   3 info hash   4 log stream
-- ARGV  1 the namespace's name, as the registry holds it
--       2 head of the log entry up to its numbers: '{' or '{"agent":"a",'
--       3, 4 log bounds: entries, bytes
-- Errors  WRONGTYPE where a key holds another type; NOPERM where the server's access rules forbid a part of it.
--         Scripts are not rolled back, so each looks at the type of every key that it will touch before it writes: HGET,
--         HMGET, HLEN, SISMEMBER, XLEN do that by failing.
--
-- A log that nobody has made is empty, and then nobody watches.

local data, registry, info, log = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local name = ARGV[1]
local call, find, match, sub = redis.call, string.find, string.match, string.sub

-- Raises NOPERM where the server's access rules would refuse a write that stands behind others.
local function must_be_allowed(command, ...)
  if redis.acl_check_cmd and not redis.acl_check_cmd(command, ...) then
    error({err = 'NOPERM this user has no permissions for ' .. command .. ' on a key of the namespace'})
  end
end

-- Appends an entry to the log. `events` is how many keyspace events this call fires on the data hash.
-- `tx` is empty, or the transaction that the entry is a part of: '"tx":["id",1,3],'.
-- Bounding the number of entries by the size of this one bounds the bytes of them all.
local function tell(events, expiry, told, told_bytes, tx)
  local kept = math.max(1, math.min(tonumber(ARGV[3]), math.floor(tonumber(ARGV[4]) / math.max(1, told_bytes))))
  local head = ARGV[2] .. (tx or '') .. '"n":' .. events .. expiry .. '}'
  call('XADD', log, 'NOMKSTREAM', 'MAXLEN', '~', kept, '*', '', head, unpack(told))
end
