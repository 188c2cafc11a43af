"""Trains the bundled model: `python recipes/tiny_reasoner/train.py --out DIR`.

A run that was stopped resumes from the last checkpoint in DIR. Writes DIR/checkpoint.pt (every --save-every
seconds), DIR/log.jsonl (one line every 20 steps) and, at the end, DIR/model (bf16 safetensors, config,
tokenizer).
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM

from regrow.bundled.problems import exercise
from tokenizer import build

HERE = Path(__file__).parent
BUCKET = 64  # rows are padded to a multiple of this, which keeps the number of shapes small


def batches(
    tokenizer: PreTrainedTokenizerBase, settings: dict, step: int
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yields (step, input ids [B, T], targets [B, T]) from `step` on.

    Targets are -100 for padding and prompts, from which nothing is learned. Earlier batches are generated too
    but not yielded, so that a resumed run sees the same batches.
    """
    pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
    produced, pool = 0, 0
    while True:
        rows = []
        sizes = settings["sizes"] if produced >= settings["short_until"] else settings["short_sizes"]
        for i in range(settings["pool"]):
            e = exercise(f"train-{settings['seed']}-{pool}-{i}", sizes)
            message = [{"role": "user", "content": e.prompt}]
            prompt = tokenizer.apply_chat_template(message, tokenize=True, add_generation_prompt=True)[
                "input_ids"
            ]
            rows.append((prompt, [*tokenizer.encode(e.solution, add_special_tokens=False), eos]))
        rows.sort(key=lambda row: len(row[0]) + len(row[1]))
        groups: list[list] = []
        for row in rows:
            width = math.ceil((len(row[0]) + len(row[1])) / BUCKET) * BUCKET
            if not groups or (len(groups[-1]) + 1) * width > settings["tokens_per_step"]:
                groups.append([])
            groups[-1].append(row)
        Random(pool).shuffle(groups)
        for group in groups:
            if produced >= step:
                width = math.ceil(max(len(p) + len(a) for p, a in group) / BUCKET) * BUCKET
                ids = torch.full((len(group), width + 1), pad)
                targets = torch.full((len(group), width + 1), -100)
                for b, (p, a) in enumerate(group):
                    ids[b, : len(p) + len(a)] = torch.tensor(p + a)
                    targets[b, len(p) : len(p) + len(a)] = torch.tensor(a)
                yield produced, ids[:, :-1], targets[:, 1:]
            produced += 1
        pool += 1


def rate(step: int, settings: dict) -> float:
    """Returns the factor on the learning rate: linear warm-up, constant, linear decay to zero.

    The number of steps may be changed until the decay begins.
    """
    return min(
        1.0, (step + 1) / settings["warmup_steps"], (settings["steps"] - step) / settings["decay_steps"]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=HERE / "config.json")
    parser.add_argument("--save-every", type=float, default=120.0, help="seconds between checkpoints")
    parser.add_argument("--stop-at", type=int, help="stop (with a checkpoint) at this step")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    config = json.loads(args.config.read_text())
    settings = config["training"]

    torch.manual_seed(settings["seed"])
    tokenizer = build(config["model"]["max_position_embeddings"])
    rope = {"rope_type": "default", "rope_theta": config["model"].pop("rope_theta")}
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            rope_parameters=rope,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **config["model"],
        )
    ).to(args.device)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters on {args.device}", flush=True)

    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "layers" in n]
    others = [p for n, p in model.named_parameters() if not (p.ndim == 2 and "layers" in n)]
    muon = torch.optim.Muon(
        matrices,
        lr=settings["muon_lr"],
        weight_decay=settings["weight_decay"],
        adjust_lr_fn="match_rms_adamw",
    )
    adamw = torch.optim.AdamW(others, lr=settings["adamw_lr"], betas=(0.9, 0.98), weight_decay=0.0)
    optimizers = [muon, adamw]
    base = [[g["lr"] for g in o.param_groups] for o in optimizers]

    checkpoint, step = args.out / "checkpoint.pt", 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=args.device, weights_only=True)
        begun = (
            saved["step"] > saved["config"]["training"]["steps"] - saved["config"]["training"]["decay_steps"]
        )
        if not begun:
            saved["config"]["training"]["steps"] = settings["steps"]
        if saved["config"] != config:
            raise SystemExit(
                f"{checkpoint} was made with another configuration; remove it or choose another --out"
            )
        model.load_state_dict(saved["model"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        step = saved["step"]
        print(f"resumed at step {step}", flush=True)

    def save() -> None:
        state = {
            "config": config,
            "step": step,
            "model": model.state_dict(),
            "optimizers": [o.state_dict() for o in optimizers],
        }
        torch.save(state, checkpoint.with_suffix(".tmp"))
        checkpoint.with_suffix(".tmp").replace(checkpoint)

    last = settings["steps"] if args.stop_at is None else args.stop_at
    saved_at, seen, learned, total, right = time.monotonic(), time.monotonic(), 0, 0.0, 0
    for index, ids, targets in batches(tokenizer, settings, step):
        if index >= last:
            break
        ids, targets = ids.to(args.device), targets.to(args.device)
        for optimizer, lrs in zip(optimizers, base, strict=True):
            for group, lr in zip(optimizer.param_groups, lrs, strict=True):
                group["lr"] = lr * rate(index, settings)
        with torch.autocast(args.device, torch.bfloat16):
            logits = model(input_ids=ids, use_cache=False).logits
        wanted = targets != -100
        loss = functional.cross_entropy(logits[wanted].float(), targets[wanted])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings["clip"])
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        step = index + 1
        learned += int(wanted.sum())
        total += loss.item() * int(wanted.sum())
        right += int((logits.detach().argmax(-1)[wanted] == targets[wanted]).sum())
        if step % 20 == 0:
            now = time.monotonic()
            line = {
                "step": step,
                "loss": round(total / learned, 5),
                "wrong_tokens": round(1 - right / learned, 5),
                "tokens": learned,
                "seconds": round(now - seen, 1),
            }
            with (args.out / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            print(line, flush=True)
            seen, learned, total, right = now, 0, 0.0, 0
        if time.monotonic() - saved_at > args.save_every:
            save()
            saved_at = time.monotonic()
    save()
    if step >= settings["steps"]:
        model.to(torch.bfloat16).save_pretrained(args.out / "model")
        tokenizer.save_pretrained(args.out / "model")
        print(f"wrote {args.out / 'model'}")


if __name__ == "__main__":
    main()
