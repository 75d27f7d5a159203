#!lua flags=no-writes
-- missing: who of these owners has no place in a lane's set.
-- KEYS     set, known
-- ARGV     ticket, owner ...
-- Returns  {ticket, number of each owner that is missing, from 1}; {ticket, 0}: the lane is known, nobody is missing;
--          {ticket}: lane unknown.
-- Promise  a lapsed place counts as missing; nothing is written.
local ticket = tonumber(ARGV[1])
if redis.call('EXISTS', KEYS[2]) == 0 then return {ticket} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local answer = {ticket, 0}
for i, ends in ipairs(redis.call('ZMSCORE', KEYS[1], unpack(ARGV, 2))) do
  if not ends or tonumber(ends) <= now then answer[#answer + 1] = i end
end
return answer
