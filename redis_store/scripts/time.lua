-- The server's clock, in ms since 1970, as digits. (Text is faster than numbers.)
local function server_time()
  local time = redis.call('TIME')
  return time[1] .. string.sub('00000' .. time[2], -6, -4)
end
