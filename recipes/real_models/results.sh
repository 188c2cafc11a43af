#!/usr/bin/env bash
# Makes results/real_model: the 1.5B model on TinyGSM8K and on the first 40 problems of MATH500.
#
#     recipes/real_models/results.sh DATA_DIR [OUT]
#
# DATA_DIR holds gsm8k, tinygsm8k and math500, each with its test.jsonl. The runs take hours on two cores; an
# interrupted run goes on where it stopped.
set -euo pipefail
data=${1:?name the folder with the benchmark files} out=${2:-results/real_model}
python=${PYTHON:-.venv/bin/python}
model=${REGROW_MODELS:-$HOME/.cache/regrow/models}/qwen2.5-coder-1.5b
work=build/real_model

$python recipes/real_models/fetch.py qwen2.5-coder-1.5b
$python recipes/real_models/calibration_text.py --data-dir "$data" --out "$work/gsm8k-rest.jsonl"
for method in teal cats; do
    [[ -f $work/$method.safetensors ]] || $python -m regrow calibrate "$model" --method $method --sparsity 0.5 \
        --text "$work/gsm8k-rest.jsonl" --out "$work/$method.safetensors"
done

evaluate() {
    $python -m regrow evaluate "$model" --data-dir "$data" --max-new-tokens 512 --out "$out" "$@"
}
evaluate --task tinygsm8k --batch-size 16 --method dense,bap,griffin,magnitude,every-token --sparsity 0.5
evaluate --task tinygsm8k --batch-size 16 --method bap --sparsity 0.3,0.4
evaluate --task tinygsm8k --batch-size 16 --method teal,cats --sparsity 0.5 \
    --calibration "$work/teal.safetensors" --calibration "$work/cats.safetensors"
evaluate --task tinygsm8k --batch-size 4 --method dense,bap --sparsity 0.5
evaluate --task math500 --limit 40 --batch-size 16 --method dense,bap --sparsity 0.5
$python -m regrow grade "$out"
$python -m regrow report "$out" --out build/real_model/report
