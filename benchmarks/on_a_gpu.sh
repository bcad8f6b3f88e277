#!/usr/bin/env bash
# Every figure that needs a GPU, in one go:
#
#   MODEL=FOLDER OUT=results AIMO2_DATA=FOLDER benchmarks/on_a_gpu.sh [PART...]
#
# raw         decode at STREAMS; then at PAIRED, beside `vllm bench serve` on the same server: both
#             are given prompts of one kind (chat template, instructions, drawn problem), as many of
#             them (6 a stream, 1024 at least), TOKENS to write for each, and are measured from the
#             first request to the last token, in turn, ROUNDS times: what differs from one round to
#             the next is the machine's noise
# efficiency  tir, solver, plain, tree and independent over decode; the same with log-probabilities
#             over decode without them; the same oversubscribed
# presets     PRESETS (of none, ngram, draft with DRAFT=MODEL, fp8, fp8-kv, awq with AWQ=FOLDER), each
#             on a server of its own, compared with none
# layouts     replicas against tensor parallel where there are several GPUs; two replicas on one card
#             where there is one; routing by prefix against routing by load
# policies    each stopping rule, weighting and branching policy on SETS, K attempts a problem,
#             compared with K plain votes by paired bootstrap and McNemar
#
# All parts are run where none is named. What is complete in OUT is not measured again and a report
# that broke off goes on, so that a run may be repeated until it is through; take another OUT for
# other sizes. URL names a server that is there already: then none is started for raw, efficiency and
# policies; presets and layouts start their own of MODEL in any case.
set -euo pipefail
: "${OUT:?give a folder in OUT}" "${STREAMS:=1,16,100,256,512}" "${PAIR:=100,512}" "${SECONDS_EACH:=20}"
: "${SETS:=math500 amc23}" "${K:=16}" "${TOKENS:=512}" "${EVAL_TOKENS:=1536}" "${LIMIT:=}" "${MANY:=512}"
: "${PRESETS:=none ngram draft fp8 fp8-kv awq}" "${DRAFT:=}" "${AWQ:=}" "${URL:=}" "${MODEL:=}"
: "${CONTEXT:=8192}" "${PAIRED:=100,256,512}" "${ROUNDS:=2}"
AIMO2=${AIMO2:-aimo2}
PYTHON=${AIMO2_VLLM_PYTHON:-python3}
parts=${*:-raw efficiency presets layouts policies}
servers=()
given=$URL
mkdir -p "$OUT"

say() { echo "on_a_gpu: $*" >&2; }

start() { # NAME REPLICAS FLAG...: their URLs come to the file NAME.url, a line each
  local name=$1 wanted=$2
  shift 2
  [ -n "$MODEL" ] || { say "give a model in MODEL, or a server in URL"; exit 2; }
  rm -f "$OUT/$name.url" # an old one would be taken for the new one's
  $AIMO2 serve "$MODEL" --concurrent "$MANY" --context "$CONTEXT" --replicas "$wanted" "$@" \
    >"$OUT/$name.url" 2>"$OUT/$name.log" &
  servers+=("$!")
  until [ "$(cat "$OUT/$name.url" 2>/dev/null | wc -l)" -ge "$wanted" ]; do
    kill -0 "${servers[-1]}" 2>/dev/null ||
      { say "$name did not start:"; tail -3 "$OUT/$name.log" >&2; exit 1; }
    sleep 1
  done
}

stop() { # every server that was started here, so that its memory is free
  local server
  for server in "${servers[@]}"; do kill -TERM "$server" 2>/dev/null || true; done
  for server in "${servers[@]}"; do wait "$server" 2>/dev/null || true; done
  servers=()
  URL=$given
}
trap stop EXIT

need_url() { # the one server of raw, efficiency and policies
  [ -z "$URL" ] || return 0
  start server 1
  URL=$(head -1 "$OUT/server.url")
}

is_complete() { grep -q '"complete": *true' "$OUT/$1.json" 2>/dev/null; }

bench() { # NAME FLAG...: returns 1 where requests failed, 2 where it broke off; ends at Ctrl-C
  local name=$1 code=0 lasting=(--duration "$SECONDS_EACH")
  shift
  case " $* " in *" --requests "*) lasting=() ;; esac
  $AIMO2 benchmark --max-tokens "$TOKENS" ${lasting[@]+"${lasting[@]}"} --json "$OUT/$name.json" \
    --resume "$@" | tee "$OUT/$name.txt" || code=$?
  [ "$code" -lt 128 ] || exit "$code"
  [ "$code" -eq 0 ] || say "$name: exit code $code; repeat the command to go on with it"
  return "$code"
}

# Each report has a seed and so prompts of its own, or it would find another one's in the caches. A
# measurement takes the next seed, so that they are a hundred apart.
bench_at_url() { # as bench, at the server of raw and efficiency; what failed ends the script
  is_complete "$1" && return 0
  need_url
  bench "$@" --base-url "$URL" || [ "$?" -eq 1 ] || exit 2
}

compare_reports() { # BEFORE AFTER
  is_complete "$1" && is_complete "$2" || return 0
  $AIMO2 benchmark compare "$OUT/$1.json" "$OUT/$2.json" | tee "$OUT/$2-against-$1.txt"
}

vllm_bench() { # NAME STREAMS NUMBER SEED
  local file="$1.json" name
  [ ! -s "$OUT/$file" ] || return 0
  need_url
  # As ShareGPT's conversations: for its `custom` data vLLM needs pandas. The text is sent as it is.
  $AIMO2 benchmark prompts --base-url "$URL" --number "$3" --seed "$4" --max-tokens "$TOKENS" |
    python3 -c "import json,sys; print(json.dumps([{'conversations': [{'value': json.loads(line)['prompt']}, {'value': ''}]} for line in sys.stdin]))" \
      >"$OUT/$1-prompts.json"
  name=$(python3 -c "import json,sys,urllib.request as r; print(json.load(r.urlopen(sys.argv[1] + '/models'))['data'][0]['id'])" "$URL")
  "$PYTHON" -m vllm.entrypoints.cli.main bench serve --backend openai --base-url "${URL%/v1}" \
    --endpoint /v1/completions --model "$name" --tokenizer "${MODEL:-$name}" \
    --dataset-name sharegpt --dataset-path "$OUT/$1-prompts.json" --disable-shuffle \
    --sharegpt-output-len "$TOKENS" --ignore-eos --temperature 0.7 --top-p 1 \
    --num-prompts "$3" --max-concurrency "$2" --save-result --result-dir "$OUT" \
    --result-filename "$file.part" | tee "$OUT/$1.txt" &&
    mv "$OUT/$file.part" "$OUT/$file" || say "vllm bench serve failed at $2 streams"
}

show_pairs() { # STREAMS: both programs' output tokens a second, a round each
  python3 - "$OUT" "$1" "$ROUNDS" <<'PY'
import json, pathlib, sys
folder, streams, rounds = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
def speeds(name, speed):
    files = [folder / f"{name}-{streams}-{each}.json" for each in range(1, rounds + 1)]
    return [speed(json.loads(file.read_text())) for file in files if file.exists()]
ours = speeds("pair", lambda report: report["results"][0]["tokens_per_second"])
theirs = speeds("vllm", lambda result: result["output_throughput"])
if ours and theirs:
    ratio = sum(ours) / len(ours) / (sum(theirs) / len(theirs))
    shown = [" and ".join(f"{speed:,.0f}" for speed in each) for each in (ours, theirs)]
    print(f"{streams} streams: aimo2 {shown[0]}, vllm bench serve {shown[1]}, ratio {ratio:.3f}")
PY
}

pair() { # STREAMS
  local number=$((6 * $1)) round seed
  [ "$number" -ge 1024 ] || number=1024
  for ((round = 1; round <= ROUNDS; round++)); do
    seed=$((10000 + 100 * $1 + 10 * round)) # other problems for each, of the same templates
    bench_at_url "pair-$1-$round" --seed "$seed" --workload decode --concurrent "$1" \
      --requests "$number"
    vllm_bench "vllm-$1-$round" "$1" "$number" $((seed + 5))
  done
  show_pairs "$1" | tee "$OUT/pair-$1.txt"
}

raw() {
  local streams
  bench_at_url raw --seed 0 --workload decode --concurrent "$STREAMS"
  if "$PYTHON" -c "import importlib.util as u, sys; sys.exit(u.find_spec('vllm') is None)"; then
    for streams in ${PAIRED//,/ }; do pair "$streams"; done
  else
    say "skipped: vllm bench serve, as $PYTHON has no vLLM (AIMO2_VLLM_PYTHON names another one)"
  fi
}

efficiency() {
  bench_at_url efficiency --seed 100 --workload decode,tir,solver,plain,tree,independent \
    --concurrent "$PAIR"
  local against=(--concurrent "$PAIR" --baseline "$OUT/efficiency.json")
  bench_at_url logprobs --seed 200 --workload decode,tir,solver,plain "${against[@]}" --logprobs
  bench_at_url oversubscribed --seed 300 --workload tir,solver "${against[@]}" --oversubscribe
}

presets() {
  local preset
  for preset in $PRESETS; do
    local model=$MODEL needs=MODEL flags=(--preset "$preset")
    case $preset in
      none) flags=() ;;
      draft) needs=DRAFT flags=(--preset "draft=$DRAFT") ;;
      awq) needs=AWQ model=$AWQ ;;
    esac
    if [ -z "$model" ] || [ -z "${!needs}" ]; then
      say "skipped: preset $preset, as $needs is not given"
    else
      is_complete "preset-$preset" || bench "preset-$preset" --model "$model" \
        ${flags[@]+"${flags[@]}"} --workload decode,tir --concurrent "1,$PAIR" || true
      [ "$preset" = none ] || compare_reports preset-none "preset-$preset"
    fi
  done
}

layouts() {
  [ -n "$MODEL" ] || { say "skipped: layouts, as MODEL names no model"; return 0; }
  local cards url urls=()
  cards=$(nvidia-smi -L 2>/dev/null | wc -l) || cards=0
  if [ "$cards" -gt 1 ]; then
    bench layouts --model "$MODEL" --layout auto --workload decode,tir --concurrent "$PAIR" || true
  else
    say "skipped: replicas against tensor parallel, as $cards GPUs are here"
  fi
  if is_complete routing-prefix && is_complete routing-load; then return 0; fi
  start replicas "$((cards > 1 ? cards : 2))"
  while read -r url; do urls+=(--base-url "$url"); done <"$OUT/replicas.url"
  is_complete routing-prefix || bench routing-prefix "${urls[@]}" --routing prefix --seed 400 \
    --workload decode,tir,tree --concurrent "$PAIR" || true
  is_complete routing-load || bench routing-load "${urls[@]}" --routing load --seed 500 \
    --workload decode,tir,tree --concurrent "$PAIR" || true
  compare_reports routing-load routing-prefix
}

evaluate() { # NAME FLAG...
  local name=$1 set
  shift
  for set in $SETS; do
    [ ! -e "$OUT/$set-$name.done" ] || continue
    need_url
    $AIMO2 eval "$set" --mode solve --base-url "$URL" --out "$OUT/$set-$name" --samples "$K" \
      --concurrency "$MANY" --max-tokens "$EVAL_TOKENS" --seed 0 ${LIMIT:+--limit "$LIMIT" --draw} "$@"
    [ "$name" = plain ] || $AIMO2 compare "$OUT/$set-plain" "$OUT/$set-$name" |
      tee "$OUT/$set-$name.txt"
    touch "$OUT/$set-$name.done"
  done
}

policies() {
  local set rule policy
  local plain=(--branch independent --weigh count --stop never --no-salvage --openings code:3,plain)
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
}

for part in $parts; do # before anything is measured
  case $part in
    raw | efficiency | presets | layouts | policies) ;;
    *) say "no such part: $part; take of raw, efficiency, presets, layouts, policies"; exit 2 ;;
  esac
done
for part in $parts; do
  case $part in presets | layouts) stop ;; esac # a card has room for one server's memory
  "$part"
  case $part in layouts) stop ;; esac
done
