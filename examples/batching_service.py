"""A small service that decodes requests in batches: `POST /generate {"prompt": "..."}`.

    pip install ".[serve]"
    python examples/batching_service.py org/model --sparsity 0.5 --init-steps 16
    curl localhost:8000/generate -d '{"prompt": "A add 517 208"}' -H 'Content-Type: application/json'

Requests wait in a queue. One worker takes all that are there, up to a limit, and decodes them as one batch
with one engine; requests that come meanwhile form the next batch. A batch ends when its longest answer ends.
For continuous batching, use a serving engine such as vLLM.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field
from transformers import AutoModelForCausalLM, AutoTokenizer

import regrow
from regrow.bundled import model_path


class Request(BaseModel):
    prompt: str = Field(min_length=1)


class Answer(BaseModel):
    text: str
    tokens: int
    batch_size: int
    actual_sparsity: float


@dataclass
class Waiting:
    """A request in the queue, and the future that gets its answer."""

    prompt: str
    answer: asyncio.Future[Answer] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Batcher:
    """Takes requests from a queue and decodes them together."""

    def __init__(self, engine: regrow.Engine, tokenizer: Any, largest: int, wait: float, limit: int) -> None:
        """`largest` is the most rows of a batch, `wait` the seconds that a first request waits for others."""
        self._engine, self._tokenizer = engine, tokenizer
        self._largest, self._wait, self._limit = largest, wait, limit
        self._queue: asyncio.Queue[Waiting] = asyncio.Queue(maxsize=8 * largest)

    async def ask(self, prompt: str) -> Answer:
        request = Waiting(prompt)
        try:
            self._queue.put_nowait(request)
        except asyncio.QueueFull:
            raise HTTPException(503, "too many requests are waiting; try again later") from None
        return await request.answer

    async def run(self) -> None:
        """Decodes batches until it is cancelled."""
        while True:
            batch = [request for request in await self._next() if not request.answer.cancelled()]
            try:
                prompts = [request.prompt for request in batch]
                answers: list[Any] = list(await asyncio.to_thread(self._decode, prompts))
            except regrow.RegrowError:  # one prompt may be too long; the others must not suffer
                answers = [await self._alone(request) for request in batch]
            except Exception as error:  # noqa: BLE001 (whatever it was, no request may wait forever)
                answers = [error] * len(batch)
            for request, answer in zip(batch, answers, strict=True):
                if request.answer.done():  # the caller went away
                    continue
                if isinstance(answer, Answer):
                    request.answer.set_result(answer)
                else:
                    request.answer.set_exception(answer)

    async def _next(self) -> list[Waiting]:
        batch = [await self._queue.get()]
        with suppress(TimeoutError):
            async with asyncio.timeout(self._wait):
                while len(batch) < self._largest:
                    batch.append(await self._queue.get())
        return batch

    async def _alone(self, request: Waiting) -> Answer | Exception:
        """Decodes one request of a failed batch by itself."""
        try:
            return (await asyncio.to_thread(self._decode, [request.prompt]))[0]
        except regrow.UsageError as error:  # the prompt does not fit
            return HTTPException(422, str(error))
        except Exception as error:  # noqa: BLE001 (as in `run`)
            return error

    def _decode(self, prompts: list[str]) -> list[Answer]:
        if not prompts:
            return []
        done = self._engine.generate(self._tokenizer, prompts, max_new_tokens=self._limit, do_sample=False)
        sparsity = done.report.actual_sparsity
        return [
            Answer(text=text, tokens=len(row), batch_size=len(prompts), actual_sparsity=sparsity)
            for text, row in zip(done.texts or [], done.tokens, strict=True)
        ]


def service(model: str, method: Any, largest: int = 16, wait: float = 0.02, limit: int = 256) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        network = AutoModelForCausalLM.from_pretrained(model, dtype="auto")
        tokenizer = AutoTokenizer.from_pretrained(model)
        with regrow.Engine(network, method, owns_model=True) as engine:
            app.state.batcher = Batcher(engine, tokenizer, largest, wait, limit)
            worker = asyncio.create_task(app.state.batcher.run())
            try:
                yield
            finally:
                worker.cancel()
                with suppress(asyncio.CancelledError):
                    await worker

    app = FastAPI(title="Regrow", lifespan=lifespan)

    @app.post("/generate")
    async def generate(request: Request) -> Answer:
        return await app.state.batcher.ask(request.prompt)

    return app


def main(
    model: Annotated[str, typer.Argument(help="A directory or a hub id.")] = str(model_path()),
    sparsity: float = 0.5,
    init_steps: Annotated[int, typer.Option(help="Dense decode steps before pruning begins.")] = 16,
    largest: Annotated[int, typer.Option(help="The most requests of a batch.")] = 16,
    wait: Annotated[float, typer.Option(help="Seconds that a first request waits for others.")] = 0.02,
    limit: Annotated[int, typer.Option(help="New tokens of an answer, at most.")] = 256,
    port: int = 8000,
) -> None:
    import uvicorn

    method = regrow.BatchwiseAdaptive(sparsity=sparsity, init_steps=init_steps)
    uvicorn.run(service(model, method, largest, wait, limit), port=port)


if __name__ == "__main__":
    typer.run(main)
