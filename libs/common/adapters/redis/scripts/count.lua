#!lua flags=no-writes
-- count: how many places of a lane are taken.
-- KEYS     set, known
-- ARGV     ticket
-- Returns  {ticket, places}; {ticket}: lane unknown.
-- Promise  lapsed places do not count, dropped or not; nothing is written.
local ticket = tonumber(ARGV[1])
if redis.call('EXISTS', KEYS[2]) == 0 then return {ticket} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return {ticket, redis.call('ZCOUNT', KEYS[1], '(' .. string.format('%.0f', now), '+inf')}
