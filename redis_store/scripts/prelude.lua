-- Stands before every script that writes: the keys of a namespace, and what all such scripts do alike.
--
-- KEYS  1 data hash   2 registry set   3 info hash   4 log stream
-- ARGV  1 the namespace's name, as the registry holds it
--       2 head of the log entry up to its numbers: '{' or '{"agent":"a",'
--       3, 4 log bounds: entries, bytes

local data, registry, info, log = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local name = ARGV[1]

local function failed(reply)
  return type(reply) == 'table' and reply.err
end

-- The error WRONGKEY <position in KEYS> where a key holds another type; else nil, the number of fields, whether the
-- registry lists the namespace (1, 0), and whether somebody watches. Nothing is rolled back, so it comes before all writes.
local function look()
  local fields = redis.pcall('HLEN', data)
  if failed(fields) then return redis.error_reply('WRONGKEY 1') end
  local listed = redis.pcall('SISMEMBER', registry, name)
  if failed(listed) then return redis.error_reply('WRONGKEY 2') end
  if failed(redis.pcall('HLEN', info)) then return redis.error_reply('WRONGKEY 3') end
  local log_type = redis.call('TYPE', log).ok
  if log_type ~= 'none' and log_type ~= 'stream' then return redis.error_reply('WRONGKEY 4') end
  return nil, fields, listed, log_type == 'stream'
end

-- Appends an entry to the log. `events` is how many keyspace events this call fires on the data hash.
-- Bounding the number of entries by the size of this one bounds the bytes of them all.
local function tell(events, expiry, told, told_bytes)
  local kept = math.max(1, math.min(tonumber(ARGV[3]), math.floor(tonumber(ARGV[4]) / math.max(1, told_bytes))))
  local head = ARGV[2] .. '"n":' .. events .. expiry .. '}'
  redis.call('XADD', log, 'NOMKSTREAM', 'MAXLEN', '~', kept, '*', '', head, unpack(told))
end
