-- Wallets leave a partition: all of them or none.
-- KEYS: mark, totals, due index. ARGV: the mark as I know it, the new mark, the new totals, how many wallets, their names,
--       then the keys to delete.
-- These are in ARGV: they carry the hash tag of KEYS[1], so they live where it lives.
local found = redis.call('GET', KEYS[1]) or ''
if found ~= ARGV[1] then return found end

local CHUNK = 2000  -- `unpack` fails from 8,000
local first = 5 + ARGV[4]
need('ZREM', KEYS[3], '')
for at = first, math.min(first + 2, #ARGV) do need('UNLINK', string.match(ARGV[at], '^.-}:%a*:')) end  -- of nobody
need('SET', KEYS[2], '', '')
need('SET', KEYS[1], '', '')
for at = 5, first - 1, CHUNK do
  redis.call('ZREM', KEYS[3], unpack(ARGV, at, math.min(at + CHUNK, first) - 1))
end
for at = first, #ARGV, CHUNK do
  redis.call('UNLINK', unpack(ARGV, at, math.min(at + CHUNK - 1, #ARGV)))
end
redis.call('SET', KEYS[2], ARGV[3])
redis.call('SET', KEYS[1], ARGV[2])
return ARGV[2]
