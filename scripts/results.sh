#!/usr/bin/env bash
# Makes the results in results/: the dense bundled model on its 500 held-out prompts, and every method on 200
# of them (docs/results.md). Finished batches are not run again, so the script can be stopped and restarted.
# JOBS is the number of processes (default: the number of cores). Arguments are passed to `regrow compare`,
# for example --only "TEAL" --batch-size 4. The dtype is float32, so that rounding, which depends on the
# batch, plays no part. Commit first, because records name the commit.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
jobs=${JOBS:-$(nproc)} # must come before OMP_NUM_THREADS is set, which nproc obeys
export OMP_NUM_THREADS=1
regrow=${REGROW:-.venv/bin/regrow}

$regrow evaluate --method dense --batch-size 16 --limit 500 --max-new-tokens 650 --dtype float32 \
    --out results/heldout-dense.jsonl
running=()
trap 'kill "${running[@]}" 2> /dev/null || true' EXIT # Ctrl-C does not reach background jobs
for part in $(seq "$jobs"); do
    $regrow compare --out results/comparison --dtype float32 --shard "$part/$jobs" "$@" > /dev/null &
    running+=($!)
done
failed=0
for process in "${running[@]}"; do wait "$process" || failed=1; done
running=()
[ "$failed" = 0 ]
$regrow compare --out results/comparison --table
