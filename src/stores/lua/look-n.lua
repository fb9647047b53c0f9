-- look: answer completed entries, and mark the other keys as running for their askers.
-- KEYS: the keys' entries, each once; on a Redis Cluster only one
-- ARGV: 1 life of a marker in ms, and then for each key  1 how a completed entry of this epoch begins  2 claim id  3 fingerprint
-- Returns: for each key { entry, its milliseconds left }, or "running", or "absent".
-- A marker proves nothing but that an equal request was seen a moment ago, so it is answered only to another claimer with the
-- same fingerprint. Whatever else is there (a marker of another request, a tombstone, an entry of another epoch) is left as
-- it is, and the store decides.
local answers = {}
for i, key in ipairs(KEYS) do
  local start, claim_id, fingerprint = ARGV[3 * i - 1], ARGV[3 * i], ARGV[3 * i + 1]
  local entry = redis.call("GET", key)
  if not entry then
    redis.call("SET", key, "v1 running " .. claim_id .. " " .. fingerprint, "PX", ARGV[1])
    answers[i] = "absent"
  elseif string.sub(entry, 1, #start) == start then
    answers[i] = { entry, redis.call("PTTL", key) }
  else
    local holder, asked = string.match(entry, "^v1 running (%S+) (.*)$")
    local is_other = holder and holder ~= claim_id and asked == fingerprint
    answers[i] = is_other and "running" or "absent"
  end
end
return answers
