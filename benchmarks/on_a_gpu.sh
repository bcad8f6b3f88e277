#!/usr/bin/env bash
# Every figure that needs a GPU, in one go, against one vLLM server:
#
#   MODEL=FOLDER OUT=results AIMO2_DATA=FOLDER benchmarks/on_a_gpu.sh [raw] [efficiency] [policies]
#
# raw         decode at STREAMS, beside `vllm bench serve` on the same server
# efficiency  tir, solver, tree and independent over decode, without and with log-probabilities
# policies    each stopping rule, weighting and branching policy on SETS, K attempts a problem,
#             compared with K plain votes by paired bootstrap and McNemar
#
# All parts are run where none is named. What exists in OUT is not measured again, so a run that
# broke off goes on. URL names a server that is there already; then none is started.
set -euo pipefail
: "${OUT:?give a folder in OUT}" "${STREAMS:=1,16,100,256,512}" "${PAIR:=100,512}" "${SECONDS_EACH:=20}"
: "${SETS:=math500 amc23}" "${K:=16}" "${TOKENS:=512}" "${EVAL_TOKENS:=1536}" "${LIMIT:=}" "${MANY:=512}"
AIMO2=${AIMO2:-aimo2}
parts=${*:-raw efficiency policies}
mkdir -p "$OUT"

if [ -z "${URL:-}" ]; then
  : "${MODEL:?give a model in MODEL, or a server in URL}"
  $AIMO2 serve "$MODEL" --concurrent "$MANY" --context 8192 >"$OUT/url" 2>"$OUT/serve.log" &
  server=$!
  trap 'kill -TERM $server 2>/dev/null || true' EXIT
  until [ -s "$OUT/url" ]; do
    kill -0 $server || { tail -3 "$OUT/serve.log" >&2; exit 1; }
    sleep 1
  done
  URL=$(head -1 "$OUT/url")
fi

bench() { # FILE FLAG...
  local file="$OUT/$1.json"
  shift
  [ -s "$file" ] || $AIMO2 benchmark --base-url "$URL" --max-tokens "$TOKENS" \
    --duration "$SECONDS_EACH" --json "$file" "$@" | tee "${file%.json}.txt"
}

vllm_bench() { # STREAMS
  local file="vllm-$1.json" name
  [ -s "$OUT/$file" ] && return
  name=$(python3 -c "import json,sys,urllib.request as r; print(json.load(r.urlopen(sys.argv[1] + '/models'))['data'][0]['id'])" "$URL")
  vllm bench serve --backend openai --base-url "${URL%/v1}" --endpoint /v1/completions \
    --model "$name" --tokenizer "${MODEL:-$name}" --dataset-name random --random-input-len 160 \
    --random-output-len "$TOKENS" --ignore-eos --num-prompts $((6 * $1)) --max-concurrency "$1" \
    --save-result --result-dir "$OUT" --result-filename "$file"
}

evaluate() { # NAME FLAG...
  local name=$1 set
  shift
  for set in $SETS; do
    $AIMO2 eval "$set" --mode solve --base-url "$URL" --out "$OUT/$set-$name" --samples "$K" \
      --concurrency "$MANY" --max-tokens "$EVAL_TOKENS" --seed 0 ${LIMIT:+--limit "$LIMIT" --draw} "$@"
    [ "$name" = plain ] || $AIMO2 compare "$OUT/$set-plain" "$OUT/$set-$name" |
      tee "$OUT/$set-$name.txt"
  done
}

for part in $parts; do
  case $part in
    raw)
      bench raw --workload decode --concurrent "$STREAMS"
      if command -v vllm >/dev/null; then
        for streams in ${STREAMS//,/ }; do [ "$streams" -lt 100 ] || vllm_bench "$streams"; done
      fi
      ;;
    efficiency)
      bench efficiency --workload decode,tir,solver,tree,independent --concurrent "$PAIR"
      bench logprobs --workload decode,tir,solver --concurrent "$PAIR" --logprobs
      ;;
    policies)
      plain=(--branch independent --weigh count --stop never --no-salvage --openings code:3,plain)
      evaluate plain "${plain[@]}"
      evaluate reasoning "${plain[@]}" --openings plain --no-code
      evaluate default
      for rule in majority k_equal window unassailable adaptive_consistency; do
        evaluate "stop-$rule" "${plain[@]}" --stop "$rule"
      done
      for rule in short_first mean_confidence inverse_entropy; do
        evaluate "weigh-$rule" "${plain[@]}" --weigh "$rule" --logprobs
      done
      for policy in bfs entropy rebase dvts; do
        evaluate "branch-$policy" "${plain[@]}" --branch "$policy" --logprobs
      done
      evaluate salvage "${plain[@]}" --salvage
      evaluate late "${plain[@]}" --openings code:3,late
      for set in $SETS; do
        $AIMO2 report "$OUT/$set-plain" "$OUT/$set-reasoning" "$OUT/$set-default" \
          -o "$OUT/report-$set.html"
      done
      ;;
    *) echo "no such part: $part; take of raw, efficiency, policies" >&2; exit 2 ;;
  esac
done
