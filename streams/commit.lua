-- One batch of one partition: all of it or nothing.
-- KEYS: mark, pending, hashes...
-- ARGV: the mark as I know it, the new mark, the new pending slot, how many arguments are rows, how many strings, how many
--       are parts; then the rows: key, value, ...; then the strings: key, value, ...;
--       then the parts: key, where in its value, what is there from now on, ...;
--       then for each hash how many follow, then field, value, ...;
--       then the key of the due index, how many follow, then due time, wallet, ...; how many leave it, then these
-- The keys of rows, strings, parts and the due index are in ARGV: they carry the hash tag of KEYS[1], so they live where it lives.
-- Nothing after the first write can fail on what is written: no value is read, added or parsed. Lua does not roll back.
local found = redis.call('GET', KEYS[1]) or ''
if found ~= ARGV[1] then return found end

local CHUNK = 2000  -- 1,000 pairs; `unpack` fails from 4,000
-- Lua hashes every byte of a string it is given or makes: so what is written is never taken apart here.
local FIRST = 7
local strings = FIRST + ARGV[4]
local parts = strings + ARGV[5]
local hashes = parts + ARGV[6]

-- One key of each kind (`w:`, `j:`, `f:`, `totals`) is asked for: all of them would be a tenth of what a commit costs Redis.
local function of_each_kind(at, stop, step)
  local keys, kinds = {}, {}
  while at < stop do
    local kind = string.match(ARGV[at], '}:%a*')
    if not kinds[kind] then
      kinds[kind] = true
      keys[#keys + 1] = ARGV[at]
    end
    at = at + step
  end
  return keys
end
local asked = {}
if strings > FIRST then asked = {ARGV[FIRST], ''} end
for _, key in ipairs(of_each_kind(strings, parts, 2)) do
  asked[#asked + 1], asked[#asked + 2] = key, ''
end
asked[#asked + 1] = KEYS[1]  -- without a value: the form that writes nothing
need('MSET', unpack(asked))
need('SET', KEYS[1], '', '')
need('SET', KEYS[2], '', '')
for _, key in ipairs(of_each_kind(parts, hashes, 3)) do need('SETRANGE', key, '-1', '') end
local length = hashes
for hash = 3, #KEYS do
  need('HSET', KEYS[hash], '', '', '')
  length = length + 1 + ARGV[length]
end
need('ZADD', ARGV[length], '0', '', '0')
need('ZREM', ARGV[length], '')

local at, stop = FIRST, parts
while at < stop do
  local last = math.min(at + CHUNK, stop)
  redis.call('MSET', unpack(ARGV, at, last - 1))
  at = last
end
while at < hashes do
  redis.call('SETRANGE', ARGV[at], ARGV[at + 1], ARGV[at + 2])
  at = at + 3
end
for hash = 3, #KEYS do
  stop = at + 1 + ARGV[at]
  at = at + 1
  while at < stop do
    local last = math.min(at + CHUNK, stop)
    redis.call('HSET', KEYS[hash], unpack(ARGV, at, last - 1))
    at = last
  end
end
local due = ARGV[at]
local function feed(write)
  stop = at + 2 + ARGV[at + 1]
  at = at + 2
  while at < stop do
    local last = math.min(at + CHUNK, stop)
    write(unpack(ARGV, at, last - 1))
    at = last
  end
  at = at - 1  -- the second list has no key before its length
end
feed(function(...) redis.call('ZADD', due, ...) end)
feed(function(...) redis.call('ZREM', due, ...) end)
redis.call('SET', KEYS[2], ARGV[3])
redis.call('SET', KEYS[1], ARGV[2])
return ARGV[2]
