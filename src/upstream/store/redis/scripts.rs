//! Scripts that Redis runs in one step. Running one twice has the effect of running it once, whatever came in between.
//!
//! In those of a lease, `KEYS[1]` has the tokens, and `KEYS[2]` is the index of the user's sessions, where the tokens
//! belong to one. `USE_ONCE` and `USE_UNTIL` have one key. All others are [`once!`], so that `KEYS[1]` and `ARGV[1]` are for it and the
//! keys come after.

/// A script that does nothing if it has run before. `KEYS[1]` tells so for `ARGV[1]` milliseconds.
///
/// It is written again in either case, so that `WAIT` has a write to wait for.
macro_rules! once {
    ($script:literal) => {
        concat!(
            r"
local was_run = redis.call('HGET', KEYS[1], 'run')
redis.call('HSET', KEYS[1], 'run', '1')
redis.call('PEXPIRE', KEYS[1], ARGV[1])
if was_run then return 0 end
",
            $script
        )
    };
}

/// A lease is `holder fence since until`, both times in milliseconds of the clock of Redis.
///
/// A lease that ends later than any holder would have it, or that cannot be read, is in doubt from now on: the clock was
/// set back, or it was not written here.
pub(super) const CLAIM: &str = r"
local key, tokens, lease = KEYS[1], 't:' .. ARGV[1], 'l:' .. ARGV[1]
local version, holder = ARGV[2], ARGV[3]
local time, grace, in_doubt_for = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])

local stored = redis.call('HGET', key, tokens)
if not stored then return {'gone'} end
if string.sub(stored, 1, 16) ~= version then return {'superseded', stored} end

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local since, fence = now, nil
local held = redis.call('HGET', key, lease)
if held then
  local by, by_fence, first, till = string.match(held, '^(%x+) (%d+) (%d+) (%d+)$')
  since, till = tonumber(first), tonumber(till)
  if not by or since > now or till > now + math.max(time, in_doubt_for) then
    if not by or till > now + math.max(time, in_doubt_for) then till = now end
    by, by_fence, since = by or '0', by_fence or '0', now
    redis.call('HSET', key, lease, string.format('%s %s %.0f %.0f', by, by_fence, since, till))
  end
  if by == holder then
    fence = by_fence
  elseif now < till then
    return {'held', till - now}
  elseif now - since >= grace then
    local left = in_doubt_for - (now - since)
    if left > 0 then return {'in doubt', left} end
    redis.call('HDEL', key, tokens, lease)
    return {'gone'}
  end
end
if not fence then fence = redis.call('HINCRBY', key, 'fence', 1) end
redis.call('HSET', key, lease, string.format('%s %s %.0f %.0f', holder, fence, since, now + time))
return {'granted', tonumber(fence)}
";

pub(super) const RENEW: &str = r"
local key, tokens, lease = KEYS[1], 't:' .. ARGV[1], 'l:' .. ARGV[1]
local stored, held = redis.call('HGET', key, tokens), redis.call('HGET', key, lease)
if not stored or string.sub(stored, 1, 16) ~= ARGV[2] or not held then return 0 end
local by, fence, since = string.match(held, '^(%x+) (%d+) (%d+) ')
if fence ~= ARGV[3] then return 0 end
local clock = redis.call('TIME')
local till = clock[1] * 1000 + math.floor(clock[2] / 1000) + tonumber(ARGV[4])
redis.call('HSET', key, lease, string.format('%s %s %s %.0f', by, fence, since, till))
return 1
";

/// It writes a stored value again, so that a second run is safe and `WAIT` has a write to wait for.
pub(super) const SETTLE: &str = r"
local key, tokens, lease = KEYS[1], 't:' .. ARGV[1], 'l:' .. ARGV[1]
local how, new = ARGV[4], ARGV[5]
local stored, held = redis.call('HGET', key, tokens), redis.call('HGET', key, lease)
if not stored then return 0 end
local version = string.sub(stored, 1, 16)
if how == 'replace' and version == string.sub(new, 1, 16) then
  redis.call('HSET', key, tokens, new)
  return 1
end
if version ~= ARGV[2] or not held then return 0 end
if string.match(held, '^%x+ (%d+) ') ~= ARGV[3] then return 0 end
redis.call('HDEL', key, lease)
if how == 'replace' then
  redis.call('HSET', key, tokens, new)
  redis.call('PEXPIRE', key, ARGV[6])
  if KEYS[2] then
    local clock = redis.call('TIME')
    local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
    redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
    redis.call('ZADD', KEYS[2], now + ARGV[6], ARGV[7])
    redis.call('PEXPIRE', KEYS[2], ARGV[6])
  end
elseif how == 'remove' then
  redis.call('HDEL', key, tokens)
end
return 1
";

pub(super) const PUT: &str = once!(
    r"
local key, index, provider, tokens = KEYS[2], KEYS[3], ARGV[2], ARGV[3]
redis.call('HSET', key, 't:' .. provider, tokens)
redis.call('HDEL', key, 'l:' .. provider)
redis.call('PEXPIRE', key, ARGV[4])
if index then
  local clock = redis.call('TIME')
  local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
  redis.call('ZREMRANGEBYSCORE', index, '-inf', now)
  redis.call('ZADD', index, now + ARGV[4], ARGV[5])
  redis.call('PEXPIRE', index, ARGV[4])
end
return 1
"
);

/// It writes again in a second run, so that `WAIT` has a write to wait for.
pub(super) const USE_ONCE: &str = r"
local by = redis.call('HGET', KEYS[1], 'by')
if by and by ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'by', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
";

/// The same, until the clock of Redis says `ARGV[2]`. If it says so already, a use may have been forgotten.
#[cfg(feature = "dpop")]
pub(super) const USE_UNTIL: &str = r"
local by = redis.call('HGET', KEYS[1], 'by')
if by and by ~= ARGV[1] then return 0 end
local clock = redis.call('TIME')
local left = ARGV[2] - (clock[1] * 1000 + math.floor(clock[2] / 1000))
if left <= 0 then return -1 end
redis.call('HSET', KEYS[1], 'by', ARGV[1])
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', left))
return 1
";

pub(super) const REMOVE: &str = once!("redis.call('DEL', KEYS[2]) return 1");

pub(super) const REMOVE_PROVIDER: &str = once!(
    r"
redis.call('HDEL', KEYS[2], 't:' .. ARGV[2], 'l:' .. ARGV[2])
return 1
"
);

/// Removes the sessions that are named from the index, `KEYS[2]`, and all other keys that are given.
pub(super) const REMOVE_USER: &str = once!(
    r"
for at = 3, #KEYS do redis.call('DEL', KEYS[at]) end
for at = 2, #ARGV do redis.call('ZREM', KEYS[2], ARGV[at]) end
return 1
"
);

pub(super) const PROVIDERS: &str = r"
local providers = {}
for _, key in ipairs(KEYS) do
  for _, field in ipairs(redis.call('HKEYS', key)) do
    if string.sub(field, 1, 2) == 't:' then providers[#providers + 1] = string.sub(field, 3) end
  end
end
return providers
";
