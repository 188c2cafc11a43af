#!/usr/bin/env bash
# The results in results/: the bundled model on its 500 held-out prompts, and every method on 200 of them (docs/results.md).
# Resumable: what is there is not run again. JOBS processes (default: the number of cores). Arguments go to `regrow compare`, such as
# --only "TEAL" --batch-size 4. In float32, so that rounding, which differs with the batch, plays no part. Commit first: records name the
# commit.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
jobs=${JOBS:-$(nproc)} # before the next line, which nproc heeds
export OMP_NUM_THREADS=1
regrow=${REGROW:-.venv/bin/regrow}

$regrow evaluate --method dense --batch-size 16 --limit 500 --max-new-tokens 650 --dtype float32 --out results/heldout-dense.jsonl
running=()
trap 'kill "${running[@]}" 2> /dev/null || true' EXIT # Ctrl-C does not reach what runs in the background
for part in $(seq "$jobs"); do
    $regrow compare --out results/comparison --dtype float32 --part "$part/$jobs" "$@" > /dev/null &
    running+=($!)
done
failed=0
for process in "${running[@]}"; do wait "$process" || failed=1; done
running=()
[ "$failed" = 0 ]
$regrow compare --out results/comparison --table
