-- Prefix of every script that writes: names the keys of a namespace, and defines the shared functions.
--
-- KEYS[1]  data hash
-- KEYS[2]  registry (set)
-- KEYS[3]  info hash
-- KEYS[4]  change log (stream)
-- ARGV[1]  the namespace's name, as in the registry
-- ARGV[2]  head of the log entry up to its numbers: '{' or '{"agent":"a",'
-- ARGV[3]  limit of the log, in entries
-- ARGV[4]  limit of the log, in bytes
-- Errors   WRONGTYPE if a key holds another type; NOPERM if the server's access rules forbid a part of the script.
--          Scripts are not rolled back. So before its first write each script checks the type of every key that it will touch,
--          with a command that fails on another type: HGET, HMGET, HLEN, SISMEMBER or XLEN.
--
-- A missing log has length 0, which means that the namespace is not watched.

local data, registry, info, log = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local name = ARGV[1]
local call, find, match, sub = redis.call, string.find, string.match, string.sub

-- Raises NOPERM if the server's access rules would refuse a write that follows others.
local function must_be_allowed(command, ...)
  if redis.acl_check_cmd and not redis.acl_check_cmd(command, ...) then
    error({err = 'NOPERM this user has no permissions for ' .. command .. ' on a key of the namespace'})
  end
end

-- Appends an entry to the log. `events` is how many keyspace events this call fires on the data hash.
-- `tx` is empty, or says which part of a transaction the entry is: '"tx":["id",1,3],'.
-- Limiting the number of entries by the size of this one limits the bytes of them all.
local function tell(events, expiry, told, told_bytes, tx)
  local kept = math.max(1, math.min(tonumber(ARGV[3]), math.floor(tonumber(ARGV[4]) / math.max(1, told_bytes))))
  local head = ARGV[2] .. (tx or '') .. '"n":' .. events .. expiry .. '}'
  call('XADD', log, 'NOMKSTREAM', 'MAXLEN', '~', kept, '*', '', head, unpack(told))
end
