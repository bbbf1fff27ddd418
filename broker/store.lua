#!lua flags=allow-oom
-- One commit, applied whole or not at all. Everything in it is absolute, so applying it twice is applying it once.
--
-- KEYS  epoch, last, live, then the keys of each verb in the order of the counts below
-- ARGV  my epoch, n, the predecessor "epoch:n", the broker's time,
--       how many keys each verb has: MSET, SET PX, ZADD, PEXPIRE, DEL, ZREM, and how many members SADD and SREM have,
--       then per verb:  MSET value…   SET PX (ttl, value)…   ZADD (ttl, count, (score, member)…)…   SADD member…
--                       PEXPIRE ttl…   SREM member…   ZREM (count, member…)…
--
-- Answers: 'ok' · 'applied': it is there already, or a later one of mine is · 'at <last>': its predecessor is not the last one ·
-- 'FENCED': a later broker has taken over.
local mine = ARGV[1]
local epoch = tonumber(redis.call('GET', KEYS[1]) or '0') or 0
if epoch > tonumber(mine) then return 'FENCED' end
local last = redis.call('GET', KEYS[2]) or '0:0:0'
local last_epoch, last_n = string.match(last, '^(%d+):(%d+):')
if epoch < tonumber(mine) or not last_n then return 'at ' .. last end
if last_epoch == mine and tonumber(last_n) >= tonumber(ARGV[2]) then return 'applied' end
if last_epoch .. ':' .. last_n ~= ARGV[3] then return 'at ' .. last end

local key, arg = 4, 13
local function count(i) return tonumber(ARGV[4 + i]) end
local function keys(n) key = key + n return unpack(KEYS, key - n, key - 1) end
local function args(n) arg = arg + n return unpack(ARGV, arg - n, arg - 1) end

-- What is added comes before what is removed.
if count(1) > 0 then
    local pairs_ = {}
    for i = 1, count(1) do
        pairs_[2 * i - 1], pairs_[2 * i] = keys(1), args(1)
    end
    redis.call('MSET', unpack(pairs_))
end
for i = 1, count(2) do
    local ttl, value = args(2)
    redis.call('SET', keys(1), value, 'PX', ttl)
end
for i = 1, count(3) do
    local index, ttl, members = keys(1), args(2)
    redis.call('ZADD', index, args(2 * members))
    -- Never shorter than what the index already has: NX gives a new one its life, GT makes it longer.
    redis.call('PEXPIRE', index, ttl, 'NX')
    redis.call('PEXPIRE', index, ttl, 'GT')
end
if count(7) > 0 then redis.call('SADD', KEYS[3], args(count(7))) end
for i = 1, count(4) do redis.call('PEXPIRE', keys(1), args(1)) end
if count(5) > 0 then redis.call('DEL', keys(count(5))) end
if count(8) > 0 then redis.call('SREM', KEYS[3], args(count(8))) end
for i = 1, count(6) do
    local index, members = keys(1), args(1)
    redis.call('ZREM', index, args(members))
end
redis.call('SET', KEYS[2], mine .. ':' .. ARGV[2] .. ':' .. ARGV[4])
return 'ok'
