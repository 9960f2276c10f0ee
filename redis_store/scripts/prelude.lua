-- Prefix of every script that writes: names the keys of a namespace, and defines the shared functions.
--
-- KEYS[1]  data hash
-- KEYS[2]  registry (set)
-- KEYS[3]  info hash
-- KEYS[4]  change log (stream); a missing log has length 0, which means that the namespace is not watched
-- ARGV[1]  the namespace's name, as in the registry
-- ARGV[2]  head of the log entry up to its numbers: '{' or '{"agent":"a",'
-- ARGV[3]  limit of the log, in entries
-- ARGV[4]  limit of the log, in bytes; negative if the log gets no values
--
-- `mark` is the text of the user's mark of the format version (namespace/format.py). Scripts that make an entry of the registry
-- set it, and those that remove the last entry remove it, at the registry's name with 'format' at its end. If the server refuses
-- that, because no key is passed for it, the next process that looks at the user does so.

local data, registry, info, log = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local name = ARGV[1]
local listed, watched -- whether the namespace is in the registry, and whether it is watched

-- Raises NOPERM if the server's access rules would refuse a write that follows others, and NOCOMMAND if the server lacks the command.
local function must_be_allowed(command, ...)
  if not redis.acl_check_cmd then return end
  local exists, allowed = pcall(redis.acl_check_cmd, command, ...)
  if not exists then error({err = 'NOCOMMAND ' .. command}) end
  if not allowed then
    error({err = 'NOPERM this user has no permissions for ' .. command .. ' on a key of the namespace'})
  end
end

-- Appends an entry to the log. `events` is how many keyspace events this call fires on the data hash, `expires` when the
-- fields expire that were set, in ms since 1970 as digits, or ''. `told` has the fields and what happened to them, in turn.
-- `tx` is nil, or says which part of a transaction the entry is: '"tx":["id",1,3],'.
-- Limiting the number of entries by the size of this one limits the bytes of them all.
local function tell(events, expires, told, tx)
  local bytes, most_bytes = 0, tonumber(ARGV[4])
  if most_bytes < 0 then
    most_bytes = -most_bytes
    for i = 2, #told, 2 do told[i] = string.byte(told[i]) == 115 and 'r' or told[i] end -- 's' and the value
  end
  for i = 1, #told do bytes = bytes + #told[i] end
  local kept = math.max(1, math.min(tonumber(ARGV[3]), math.floor(most_bytes / bytes)))
  local expiry = expires ~= '' and ',"x":' .. expires or ''
  local head = ARGV[2] .. (tx or '') .. '"n":' .. events .. expiry .. '}'
  call('XADD', log, 'NOMKSTREAM', 'MAXLEN', '~', kept, '*', '', head, unpack(told))
end
