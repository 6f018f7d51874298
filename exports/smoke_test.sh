#!/usr/bin/env bash
# Tries a folder of exports on the real TensorFlow Serving, in Docker.
#
#   exports/smoke_test.sh MODELS NAME VIDEO [FLAGS of zoo predict, such as --flow tvl1]
#
# MODELS is what `zoo export --out MODELS` filled, NAME a classifier in it. Needs docker,
# curl and `zoo` with its extra "serving" on PATH; SERVING_IMAGE chooses another image,
# ZOO another way to call `zoo`. MODELS is not written to: a copy is served.
set -euo pipefail

[ $# -ge 3 ] || { sed -n 's/^#   //p' "$0" >&2; exit 2; }
models=$1 name=$2 video=$3
shift 3
flags=("$@")
image=${SERVING_IMAGE:-tensorflow/serving:latest}
read -ra zoo <<<"${ZOO:-zoo}"

work=$(mktemp -d)
container=
# shellcheck disable=SC2317  # called by the trap
clean_up() {
  local status=$?
  if [ -n "$container" ]; then
    [ $status = 0 ] || docker logs "$container" >&2 || true
    docker rm --force "$container" >/dev/null || true
  fi
  rm -rf "$work"
  exit $status
}
trap clean_up EXIT

step() { printf '== %s\n' "$*"; }
fail() { printf 'smoke test: failed: %s\n' "$*" >&2; exit 1; }

step "serve a copy of $models/$name with $image"
mkdir "$work/models" "$work/config"
cp -R "$models/$name" "$work/models/$name"
"${zoo[@]}" serve-config "$work/models" --out "$work/config"
container=$(docker run --detach \
  --publish 127.0.0.1::8500 --publish 127.0.0.1::8501 \
  --volume "$work/models:/models:ro" --volume "$work/config:/config:ro" "$image" \
  --model_config_file=/config/models.config \
  --model_config_file_poll_wait_seconds=1 --file_system_poll_wait_seconds=1 \
  --allow_version_labels_for_unavailable_models=true \
  --monitoring_config_file=/config/monitoring.config)
port() { docker port "$container" "$1/tcp" | head -n 1 | sed 's/.*://'; }
grpc=127.0.0.1:$(port 8500)
rest=http://127.0.0.1:$(port 8501)
url=$rest/v1/models/$name

# wait_for SECONDS COMMAND...: until the command succeeds
wait_for() {
  local left=$1
  shift
  until "$@"; do
    left=$((left - 1))
    [ $left -gt 0 ] || fail "waited in vain for: $*"
    sleep 1
  done
}
# is_available VERSION
is_available() {
  curl --silent --fail "$url/versions/$1" | tr -d ' \n' |
    grep -q '"state":"AVAILABLE"'
}
version=$(find "$work/models/$name" -mindepth 1 -maxdepth 1 -type d -name '[0-9]*' |
  sed 's,.*/,,' | sort -n | tail -n 1)
wait_for 300 is_available "$version"

predict() { "${zoo[@]}" predict "$video" --model "$@" ${flags[@]+"${flags[@]}"}; }

step "gRPC answers as the export does here"
predict "$models/$name/$version" >"$work/here"
predict "$name" --server "$grpc" >"$work/there"
# The classes and their order; scores may differ in the last digit.
compare() {
  paste "$work/here" "$work/there" | awk '
    NR > 1 { d = $1 - $(NF / 2 + 1); if (d < 0) d = -d; if (d > 0.0002) bad = 1 }
    END { exit bad }' || return 1
  diff <(sed 's/^ *[0-9.]* *//' "$work/here") <(sed 's/^ *[0-9.]* *//' "$work/there")
}
compare || fail "the answers differ: $(cat "$work/here" "$work/there")"

step "labels"
predict "$name" --server "$grpc" --label stable >"$work/there"
compare || fail "the version labelled stable answers otherwise"

if curl --silent --fail "$url/metadata" | tr -d ' \n' | grep -q '"jpeg":{"inputs"'; then
  step "REST takes JPEG files"
  predict "$name" --server "$rest"
  step "a broken JPEG is refused with a message, and nothing else happens"
  body='{"signature_name": "jpeg", "inputs": {"jpeg": [[{"b64": "bm8="}]]}}'
  code=$(curl --silent --output "$work/answer" --write-out '%{http_code}' \
    --data "$body" "$url:predict")
  [ "$code" = 400 ] || fail "HTTP status $code instead of 400: $(cat "$work/answer")"
  grep -q '"error"' "$work/answer" || fail "no message: $(cat "$work/answer")"
fi
code=$(curl --silent --output "$work/answer" --write-out '%{http_code}' \
  "$rest/v1/models/no_such_model")
[ "$code" = 404 ] || fail "HTTP status $code for an unknown model instead of 404"

step "metrics"
curl --silent --fail "$rest/monitoring/prometheus/metrics" >"$work/metrics"
grep -q 'serving:request_count' "$work/metrics" || fail "no metrics of requests"

step "a new version takes over, no request fails"
next=$((version + 1))
cp -R "$work/models/$name/$version" "$work/models/$name/.next"
mv "$work/models/$name/.next" "$work/models/$name/$next"
count=0
until is_available "$next"; do
  predict "$name" --server "$grpc" >"$work/there"
  compare || fail "a wrong answer while the new version loads"
  count=$((count + 1))
  [ $count -lt 60 ] || fail "version $next is not loaded after $count requests"
done
predict "$name" --server "$grpc" --version "$next" >"$work/there"
compare || fail "the new version answers otherwise"

printf 'smoke test: passed (%s requests while version %s was loaded)\n' "$count" "$next"
