-- Measure Redis keys: the memory that the server takes for each of them.
--
-- KEYS     any, about 500 at most
-- ARGV[1]  measure each element of a key with up to this many; of a bigger one so many elements, from which the rest is estimated
-- ARGV[2]  stop after a key once this many elements are measured, so that other clients are served
-- Reply    array of bytes, for the first keys at least, 0 for a missing one; {-1} if the server does not report them

local LENGTH = {hash = 'HLEN', set = 'SCARD', zset = 'ZCARD', list = 'LLEN', stream = 'XLEN'}
local MEMBERS, MEMBERS_BYTES, MEMBER_BYTES = 2000, 4194304, 130

local sampled, most = tonumber(ARGV[1]), tonumber(ARGV[2])
local found, measured = {}, 0

-- The members of a big sorted set are sampled at random: MEMORY USAGE samples those with the lowest scores, which writers choose.
local function of_members(key, count)
  local seen, bytes = 0, 0
  while seen < MEMBERS and bytes < MEMBERS_BYTES do
    for _, member in ipairs(redis.call('ZRANDMEMBER', key, 50)) do
      seen, bytes = seen + 1, bytes + #member
    end
  end
  return math.ceil(count * (bytes / seen + MEMBER_BYTES))
end

for i, key in ipairs(KEYS) do
  if measured >= most then break end
  local kind = redis.call('TYPE', key).ok
  local count = LENGTH[kind] and redis.call(LENGTH[kind], key) or 1
  measured = measured + math.min(count, sampled)
  if kind == 'none' then
    found[i] = 0
  elseif kind == 'zset' and count > sampled then
    found[i] = of_members(key, count)
  else
    local bytes = redis.pcall('MEMORY', 'USAGE', key, 'SAMPLES', math.max(math.min(count, sampled), 5))
    if type(bytes) == 'table' then return {-1} end
    found[i] = bytes or 0
  end
end
return found
