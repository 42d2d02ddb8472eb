-- One visit to the hold line: forget who stopped asking, join or renew one call, say where it stands.
--
-- KEYS  1 the line: a sorted set of calls by arrival, in microseconds of this server's clock
--       2 when each of them will have stopped asking, in the same unit
-- ARGV  1 the call, '' to only look   2 how long it has waited, us (0: it has just arrived)
--       3 within how long it asks again, us   4 how many may wait   5 time to live of both keys, s
--       6... pairs of a word and a call: 'served' leaves, 'gone' leaves as one that stopped asking, 'asking' is being given
--            a worker now and stands in nobody's way
-- Gives the place (0 is the first; -1: the line is full, or nobody asked), the length, and how long each one that stopped
-- asking had waited, in us.

local line, due = KEYS[1], KEYS[2]
local me, waited, patience = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local asking, left = {}, {}

local function digits(number) -- tostring keeps 14 of the 16 digits
  return string.format('%.0f', number)
end

local function leave(call)
  redis.call('ZREM', line, call)
  redis.call('ZREM', due, call)
end

for i = 6, #ARGV, 2 do
  local word, call = ARGV[i], ARGV[i + 1]
  if word == 'served' then
    leave(call)
  elseif word == 'gone' then
    redis.call('ZADD', due, 'XX', 0, call)
  elseif call ~= me then
    asking[#asking + 1] = call
  end
end

for _, call in ipairs(redis.call('ZRANGEBYSCORE', due, '-inf', digits(now))) do
  if call ~= me then -- late, but here
    local since = redis.call('ZSCORE', line, call)
    if since then
      left[#left + 1] = now - tonumber(since)
    end
    leave(call)
  end
end

local place = -1
if me ~= '' then
  local since = redis.call('ZSCORE', line, me)
  if not since and (waited > 0 or redis.call('ZCARD', line) < tonumber(ARGV[4])) then
    since = now - waited
    local last = redis.call('ZREVRANGE', line, 0, 0, 'WITHSCORES')[2]
    if waited == 0 and last and tonumber(last) >= since then
      since = tonumber(last) + 1 -- behind everybody, also when two arrive at once or the clock was set back
    end
    redis.call('ZADD', line, digits(since), me)
  end
  if since then
    redis.call('ZADD', due, digits(now + patience), me)
    redis.call('EXPIRE', line, ARGV[5])
    redis.call('EXPIRE', due, ARGV[5])
    place = redis.call('ZRANK', line, me)
    for _, call in ipairs(asking) do
      local theirs = redis.call('ZSCORE', line, call)
      if theirs and tonumber(theirs) < tonumber(since) then
        place = place - 1
      end
    end
  end
end

return { place, redis.call('ZCARD', line), left }
