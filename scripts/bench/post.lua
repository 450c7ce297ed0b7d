-- For wrk: posts one file over and over and prints the figures as JSON.
-- wrk -s post.lua URL -- CONTENT_TYPE BODY_FILE

local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  local file = assert(io.open(args[2], "rb"))
  wrk.method, wrk.body = "POST", file:read("*a")
  file:close()
  wrk.headers["Content-Type"] = args[1]
  refused, refusal = 0, 0
  local whole = wrk.format()
  request = function() return whole end
end

-- wrk itself calls only 400 and above an error.
function response(status)
  if status < 200 or status > 299 then
    refused, refusal = refused + 1, status
  end
end

function done(summary, latency)
  local refused, refusal = 0, 0
  for _, thread in ipairs(threads) do
    refused = refused + thread:get("refused")
    if thread:get("refusal") ~= 0 then refusal = thread:get("refusal") end
  end
  local e = summary.errors
  io.write(string.format(
    'figures {"answers": %d, "duration_us": %d, "refused": %d, "refusal": %d, "broken": %d, "timeouts": %d, '
      .. '"p50_us": %d, "p90_us": %d, "p99_us": %d}\n',
    summary.requests, summary.duration, refused, refusal, e.connect + e.read + e.write, e.timeout,
    latency:percentile(50), latency:percentile(90), latency:percentile(99)))
end
