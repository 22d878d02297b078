-- Comes before every script that writes. Lua does not roll back, and a right may be withdrawn while a worker works: so the
-- script asks for all it needs before its first write, each command in a form that writes nothing.
-- Redis 7 says what it allows; before that the command is tried: rights are looked at first, its form after that.
local function need(...)
  local may
  if redis.acl_check_cmd then
    may = redis.acl_check_cmd(...)
  else
    local said = redis.pcall(...)
    may = type(said) == 'number' or not string.find(said.err, 'The user executing the script', 1, true)
  end
  if not may then
    local command, key = ...
    error("The user executing the script can't run " .. command .. ' on ' .. key, 0)
  end
end
