#!/usr/bin/env bash
# Evaluates on all GPUs of one machine, one shard for each:
#
#   examples/clusters/gpus.sh MODEL --task math500 --method bap --batch-size 8 --out results
#
# The arguments are those of `regrow evaluate`, all but --shard. GPUS is the number of GPUs, by default all.
set -euo pipefail

gpus=${GPUS:-$(nvidia-smi --list-gpus | wc -l)}
running=()
trap 'kill "${running[@]}" 2> /dev/null || true' EXIT # Ctrl-C does not reach background jobs
for shard in $(seq "$gpus"); do
    CUDA_VISIBLE_DEVICES=$((shard - 1)) regrow evaluate "$@" --shard "$shard/$gpus" > /dev/null &
    running+=($!)
done
failed=0
for process in "${running[@]}"; do wait "$process" || failed=1; done
running=()
exit "$failed"
