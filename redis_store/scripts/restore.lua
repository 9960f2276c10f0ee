-- Write keys as an export has them: values, infos, tags and expiry times. Keys that are as they should be already are left alone.
--
-- KEYS[1-4], ARGV[1-4]  see prelude.lua
-- ARGV[5]   'keep' leaves keys that hold something else as they are, 'replace' writes them too
-- ARGV[6..] four for each key, about 500 at most: field, value, info or '', expiry in ms since 1970 or ''
-- Reply     {written, already so, expired since, indexes from 0 of those that hold something else}
-- Errors    UNSUPPORTED: a key expires, and the server has no hash field expiry

local FIRST = 6
local mode = ARGV[5]

local fields = {}
for i = FIRST, #ARGV, 4 do fields[#fields + 1] = ARGV[i] end
local texts = call('HMGET', data, unpack(fields))
local infos = call('HMGET', info, unpack(fields))
listed = call('SISMEMBER', registry, name) == 1
watched = call('XLEN', log) > 0
local lives = redis.pcall('HPEXPIRETIME', data, 'FIELDS', #fields, unpack(fields))
if lives.err then
  for i = FIRST, #ARGV, 4 do
    if ARGV[i + 3] ~= '' then
      return find(lives.err, 'nknown', 1, true) and redis.error_reply('UNSUPPORTED hash field expiry') or lives
    end
  end
  lives = nil
end

local now = tonumber(server_time())
local same, expired, others = 0, 0, {}
local groups, order = {}, {} -- an entry of the log has one expiry, so there is a group for each
local expires_some
for n = 1, #fields do
  local at = FIRST + 4 * (n - 1)
  local expires = ARGV[at + 3]
  local life = texts[n] and lives and lives[n] or -1
  local there = texts[n] and life ~= -2
  local expiry_there = life > 0 and string.format('%.0f', life) or ''
  if expires ~= '' and tonumber(expires) <= now then
    expired = expired + 1
  elseif there and texts[n] == ARGV[at + 1] and (infos[n] or '') == ARGV[at + 2] and expiry_there == expires then
    same = same + 1
  elseif there and mode == 'keep' then
    others[#others + 1] = n - 1
  else
    local group = groups[expires]
    if not group then
      group = {}
      groups[expires] = group
      order[#order + 1] = expires
    end
    group[#group + 1] = at
    expires_some = expires_some or expires ~= ''
  end
end
if #order == 0 then return {0, same, expired, others} end

must_be_allowed('HSET', info, 'field', 'text')
must_be_allowed('HDEL', info, 'field')
if not listed then must_be_allowed('SADD', registry, name) end
if expires_some then must_be_allowed('HPEXPIREAT', info, '1', 'FIELDS', '1', 'field') end
if watched then must_be_allowed('XADD', log, '*', '', '') end

local written = 0
for _, expires in ipairs(order) do
  local names, values, about, bare, told, inline_bytes = {}, {}, {}, {}, {}, 0
  for _, at in ipairs(groups[expires]) do
    local field, value, text = ARGV[at], ARGV[at + 1], ARGV[at + 2]
    names[#names + 1] = field
    values[#values + 1] = field
    values[#values + 1] = value
    if text ~= '' then
      about[#about + 1] = field
      about[#about + 1] = text
    else
      bare[#bare + 1] = field
    end
    if watched then
      local news = #value <= 1024 and inline_bytes + #value <= 65536 and 's' .. value or 'r'
      inline_bytes = inline_bytes + #news
      told[#told + 1] = field
      told[#told + 1] = news
    end
  end
  -- If the first write is refused (a full server, a replica), nothing has changed.
  call('HSET', data, unpack(values))
  if #about > 0 then call('HSET', info, unpack(about)) end
  if #bare > 0 then call('HDEL', info, unpack(bare)) end
  if not listed then
    call('SADD', registry, name)
    redis.pcall('SET', sub(registry, 1, -11) .. 'format', mark, 'NX')
  end
  listed = true
  local events = 1
  if expires ~= '' then
    events = 2
    call('HPEXPIREAT', data, expires, 'FIELDS', #names, unpack(names))
    if #about > 0 then
      local with_info = {}
      for i = 1, #about, 2 do with_info[#with_info + 1] = about[i] end
      call('HPEXPIREAT', info, expires, 'FIELDS', #with_info, unpack(with_info))
    end
  end
  for i = 1, #about, 2 do
    local tags = tags_in(about[i + 1])
    if tags then
      local member = #name .. ':' .. name .. ':' .. about[i]
      for key in pairs(cjson.decode(tags)) do pcall(tag, key, member, expires, string.format('%.0f', now)) end
    end
  end
  if watched then tell(events, expires, told) end
  written = written + #names
end
return {written, same, expired, others}
