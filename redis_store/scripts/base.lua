-- Prefix of the other prefixes. What holds for every script and is not repeated in its header:
--
-- WRONGTYPE is raised if a key holds another type, and NOPERM if the server's access rules forbid a part of the script.
-- Scripts are not rolled back. So before its first write each script checks the type of every key that it will touch, with a
-- command that fails on another type: HGET, HMGET, HLEN, SISMEMBER, XLEN, ZCARD, LLEN or GET.
-- Scripts that delete, release or renew begin with a write that frees memory: a full server accepts it, and then the rest.
-- On a cluster, a script of several keys does nothing while their hash slot is being moved: a key that it has deleted, or a tag,
-- could be taken for one at the other node, and the script would fail half-way. The question names a key that never exists.
-- Each function that a script defines costs each call 0.1 µs. So prefixes are small, and set.lua does without some.

local call, find, match, sub = redis.call, string.find, string.match, string.sub

if #KEYS > 1 and string.byte(KEYS[1], 6) == 123 then -- a hash tag, 'user:{'
  local settled = redis.pcall('EXISTS', KEYS[1], match(KEYS[1], '^user:{.-}:') .. 'w:none')
  local refusal = type(settled) == 'table' and settled.err or ''
  if find(refusal, 'cluster node', 1, true) or find(refusal, 'of the slot', 1, true) then -- Redis 7 and Valkey, Redis 8
    return redis.error_reply('TRYAGAIN the hash slot is being moved')
  end
end
