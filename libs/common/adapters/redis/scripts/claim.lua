#!lua
-- claim: give owners a place in a lane's set, in order, or say that the lane is full.
-- KEYS     set (owner -> end of its place, in ms), known, and for permits: waiting
-- ARGV     ticket, limit, life of a place in ms, owner ...
-- Returns  {ticket, verdict of each owner}: 1 taken, 2 held already and prolonged, 0 full; {ticket}: lane unknown.
-- Promise  lapsed owners go first and nobody is added past the limit. Redis's own clock judges: callers' clocks drift.
--          A refusal sets `waiting`: the next release wakes who was refused. It lapses with the places in the way.
local ticket, limit, life = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
if redis.call('EXISTS', KEYS[2]) == 0 then return {ticket} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local taken, refused = redis.call('ZCARD', KEYS[1]), false
local verdicts = {ticket}
for i = 4, #ARGV do
  if taken < limit and redis.call('ZADD', KEYS[1], 'NX', now + life, ARGV[i]) == 1 then
    taken = taken + 1
    verdicts[i - 2] = 1
  elseif redis.call('ZSCORE', KEYS[1], ARGV[i]) then
    redis.call('ZADD', KEYS[1], 'XX', 'GT', now + life, ARGV[i])
    verdicts[i - 2] = 2
  else
    refused = true
    verdicts[i - 2] = 0
  end
end
if refused and KEYS[3] then redis.call('SET', KEYS[3], now, 'PX', life) end
return verdicts
