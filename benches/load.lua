-- What wrk sends: the method and the path of its arguments, and a key for each request: its third argument, which is
-- followed by a number where the fourth is "new".
local method, path, prefix, each
local number = 0
function init(args)
  method, path, prefix, each = args[1], args[2], args[3], args[4]
end
function request()
  number = number + 1
  local headers = {}
  if prefix ~= '-' then
    headers['Idempotency-Key'] = each == 'new' and (prefix .. number) or prefix
  end
  return wrk.format(method, path, headers)
end
