#!/usr/bin/env bash
# Accuracy of the bundled model under every method and batch size of the README's table, on the same held-out prompts.
# Resumable: what is recorded in results/accuracy is not run again. JOBS runs at a time (default: the number of cores).
# In float32, so that rounding, which differs with the batch, plays no part.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=results/accuracy
mkdir -p "$out"
jobs=${JOBS:-$(nproc)} # before the next line, which nproc heeds
export OMP_NUM_THREADS=1
regrow=.venv/bin/regrow

{
    for batch in 1 4 8 16; do
        echo "--method griffin --sparsity 0.5 --batch-size $batch --limit 200 --out $out/griffin-b$batch.jsonl"
        for init in 16 64; do
            echo "--method bap --sparsity 0.5 --init-steps $init --batch-size $batch --limit 200 --out $out/bap-init$init-b$batch.jsonl"
        done
        echo "--method dense --batch-size $batch --limit 200 --out $out/dense-b$batch.jsonl"
    done
    echo "--method dense --batch-size 16 --limit 500 --out $out/heldout-dense.jsonl"
} | xargs -P "$jobs" -I {} sh -c "$regrow evaluate --dtype float32 --max-new-tokens 600 {}"

$regrow table --markdown "$out"/*.jsonl > "$out/table.md"
$regrow table --json "$out"/*.jsonl > "$out/table.json"
