-- Prefix of the other prefixes. What holds for every script and is not repeated in its header:
--
-- WRONGTYPE is raised if a key holds another type, and NOPERM if the server's access rules forbid a part of the script.
-- Scripts are not rolled back. So before its first write each script checks the type of every key that it will touch, with a
-- command that fails on another type: HGET, HMGET, HLEN, SISMEMBER, XLEN, ZCARD, LLEN or GET.
-- Scripts that delete, release or renew begin with a write that frees memory: a full server accepts it, and then the rest.
-- Each function that a script defines costs each call 0.1 µs. So prefixes are small, and set.lua does without some.

local call, find, match, sub = redis.call, string.find, string.match, string.sub
