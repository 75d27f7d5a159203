#!lua flags=allow-oom
-- rename: hand places over to new owners.
-- KEYS     set, known
-- ARGV     ticket, then for each: old owner, new owner, life of the place in ms
-- Returns  {ticket, owners that were replaced}; {ticket}: lane unknown.
-- Promise  old goes as new comes, so the count stays. A new owner comes even if the old one has lapsed or is gone
--          already: its call runs, whatever the limit says; and so repeating it changes nothing.
local ticket = tonumber(ARGV[1])
if redis.call('EXISTS', KEYS[2]) == 0 then return {ticket} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local replaced = 0
for i = 2, #ARGV, 3 do
  replaced = replaced + redis.call('ZREM', KEYS[1], ARGV[i])
  redis.call('ZADD', KEYS[1], now + ARGV[i + 2], ARGV[i + 1])
end
return {ticket, replaced}
