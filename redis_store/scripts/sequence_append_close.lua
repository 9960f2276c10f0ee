-- Ends the function that sequence_append.lua has begun, runs it, and does the rest.
end

local reply = write()
if type(reply) == 'table' then return reply end
if most then
  local last = math.min(following - most, first + REMOVED_AT_ONCE)
  while first < last do
    local names = {}
    for position = first, math.min(first + PART, last) - 1 do names[#names + 1] = name_of(position) end
    first = first + #names
    local deleted = call('HDEL', data, unpack(names))
    call('HDEL', info, unpack(names))
    if deleted > 0 and call('XLEN', log) > 0 then
      local told = {}
      for i, name in ipairs(names) do told[2 * i - 1], told[2 * i] = name, 'd' end
      tell(1, '', told)
    end
  end
end
call('HSET', info, '', string.format('%.0f %.0f', first, following))
if ttl_ms ~= '' and count > 0 then
  local expires = call('HPEXPIRETIME', data, 'FIELDS', 1, name_of(following - 1))[1]
  call('HPEXPIREAT', info, string.format('%.0f', expires), 'FIELDS', 1, '')
end
return following
