#!lua flags=allow-oom
-- Who may write. KEYS: leader, epoch, last, tagkey, tagkey_before, led. Epochs are sent as text: a Lua number would be printed with an exponent.
--
--   take NAME WALL TTL WAIT TAGKEY WATCHED
--                                   becomes the leader when nobody is, or (unless WAIT is 1) when the leader has my name. Another who led
--                                   and has not left may live and be about to renew itself: then, and with WAIT, only if WATCHED is 1.
--                                   -> 'taken', my epoch, last, tagkey, tagkey_before
--                                   or 'held', the leader's name (empty: it has lapsed), ms until it lapses
--   hold NAME EPOCH TTL TAGKEY BEFORE
--                                   stays the leader; an older data set gets my epoch (again, or a later one of mine) and the keys that
--                                   ids are checked with: without them every id made so far would be a stranger's.
--                                   -> 'mine' | 'older', last              or 'FENCED', the leader's name
--   leave NAME EPOCH                -> 'left' or 'FENCED'
local function text(number) return string.format('%.0f', number) end
local leader = redis.call('GET', KEYS[1])
local epoch = tonumber(redis.call('GET', KEYS[2]) or '0') or 0
local last = redis.call('GET', KEYS[3]) or '0:0:0'
local verb, name = ARGV[1], ARGV[2]

if verb == 'take' then
    local wall, ttl, wait, fresh = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
    if leader and (leader ~= name or wait == '1') then return {'held', leader, redis.call('PTTL', KEYS[1])} end
    local led = redis.call('GET', KEYS[6]) or name
    if not leader and (led ~= name or wait == '1') and ARGV[7] ~= '1' then return {'held', '', -2} end
    local mine = text(math.max(epoch + 1, tonumber(wall)))
    redis.call('SET', KEYS[2], mine)
    redis.call('SET', KEYS[4], fresh, 'NX')
    redis.call('SET', KEYS[1], name, 'PX', ttl)
    redis.call('SET', KEYS[6], name)
    return {'taken', mine, last, redis.call('GET', KEYS[4]), redis.call('GET', KEYS[5]) or ''}
end

local mine = tonumber(ARGV[3])
-- Every take raises the epoch. So another name under mine or a lower one is an older data set's, from before me.
if epoch > mine then return {'FENCED', leader or ''} end
if verb == 'leave' then
    redis.call('DEL', KEYS[1], KEYS[6])
    return {'left'}
end
if epoch < mine then redis.call('SET', KEYS[2], ARGV[3]) end
if redis.call('GET', KEYS[4]) ~= ARGV[5] then redis.call('SET', KEYS[4], ARGV[5]) end
if ARGV[6] ~= '' and redis.call('GET', KEYS[5]) ~= ARGV[6] then redis.call('SET', KEYS[5], ARGV[6]) end
if redis.call('GET', KEYS[6]) ~= name then redis.call('SET', KEYS[6], name) end
redis.call('SET', KEYS[1], name, 'PX', ARGV[4])
return {epoch < mine and 'older' or 'mine', last}
