-- What wrk sends: the method and the path of its arguments, and a key: its third argument, which is followed by a number
-- for each request where the fourth is "new". Put together once: at a native server's pace the client must not be what is
-- measured.
local before, after
local number = 0
function init(args)
  local method, path, key, each = args[1], args[2], args[3], args[4]
  local headers = {}
  if key ~= '-' then
    headers['Idempotency-Key'] = each == 'new' and (key .. '#') or key
  end
  local text = wrk.format(method, path, headers)
  before, after = text:match('^(.*)#(.*)$')
  before = before or text
end
function request()
  if not after then
    return before
  end
  number = number + 1
  return before .. number .. after
end
