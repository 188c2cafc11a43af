#!/usr/bin/env bash
# Evaluates on a SLURM cluster, one shard for each task of an array job:
#
#   sbatch examples/clusters/slurm.sh MODEL --task math500 --method bap --batch-size 8 --out results
#
# The arguments are those of `regrow evaluate`, all but --shard. docs/clusters.md explains the rest.
#SBATCH --job-name=regrow
#SBATCH --array=1-8
#SBATCH --ntasks=1
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=regrow-%A-%a.log
set -euo pipefail

# If only some shards are submitted again (--array=3,5), SLURM counts only those. SHARDS says how many there are.
shards=${SHARDS:-$SLURM_ARRAY_TASK_COUNT}
exec srun regrow evaluate "$@" --shard "$SLURM_ARRAY_TASK_ID/$shards"
