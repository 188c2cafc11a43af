"""Several callers of one model: results are unaffected, no call waits for ever, and the model is restored."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel, StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

import regrow
from batches import arguments, prompts
from families import VOCABULARY, build
from regrow.errors import UsageError
from regrow.hosts import turns
from regrow.hosts.hugging_face import active_session

SHORT = regrow.BatchwiseAdaptive(sparsity=0.5, init_steps=3, explore_steps=1, period=4)
METHODS = {"dense": regrow.Dense(), "bap": SHORT, "griffin": regrow.Griffin(sparsity=0.5)}
BATCHES = [prompts(rows, seed) for seed, rows in enumerate((1, 2, 1, 3))]

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(autouse=True)
def _switch_often() -> Any:
    """Let the interpreter switch threads often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """Return the results of calls that start at the same time, one per thread, or raise the first error."""
    gate = threading.Barrier(len(calls))

    def start(call: Callable[[], Any]) -> Any:
        gate.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(start, call) for call in calls]]


def outcome(call: Callable[[], Any]) -> Any:
    """Return the result of a call, or the message of its UsageError."""
    try:
        return call()
    except UsageError as error:
        return str(error)


def same(got: regrow.Generation, want: regrow.Generation) -> bool:
    """Compare everything except times."""
    quiet = dict.fromkeys(("prefill_seconds", "decode_seconds", "sparse_seconds", "refresh_seconds"), 0)
    return (
        torch.equal(got.sequences, want.sequences)
        and got.report.to_dict() | quiet == want.report.to_dict() | quiet
    )


# Callers that take turns


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_threads_on_one_engine_get_what_each_gets_alone(family: str, name: str) -> None:
    model = build(family)
    alone = [regrow.generate(model, **arguments(batch), method=METHODS[name]) for batch in BATCHES]
    with regrow.Engine(model, METHODS[name]) as engine:
        for _ in range(2):
            got = at_once(*(lambda batch=batch: engine.generate(**arguments(batch)) for batch in BATCHES))
            assert all(map(same, got, alone))
    assert "generate" not in vars(model)


def test_threads_that_call_the_pruned_models_own_generate() -> None:
    model = build("llama")
    with regrow.prune(model, SHORT):
        alone = [model.generate(**arguments(batch)) for batch in BATCHES]
        got = at_once(*(lambda batch=batch: model.generate(**arguments(batch)) for batch in BATCHES))
    assert all(map(torch.equal, got, alone))


def test_overlapping_calls_with_methods_of_their_own() -> None:
    """Without a context around the calls, and beside calls without a method: none sees another's method."""
    model = build("llama")
    stock = [model.generate(**arguments(batch)) for batch in BATCHES]
    given = [
        (batch, METHODS[name])
        for batch, name in zip(BATCHES, ("dense", "bap", "griffin", "bap"), strict=True)
    ]
    alone = [regrow.generate(model, **arguments(batch), method=method) for batch, method in given]
    for _ in range(3):
        ours = [
            lambda batch=batch, method=method: regrow.generate(model, **arguments(batch), method=method)
            for batch, method in given
        ]
        got = at_once(*ours, lambda: regrow.generate(model, **arguments(BATCHES[1])))
        assert all(map(same, got, alone))
        assert torch.equal(got[4].sequences, stock[1])
        assert "generate" not in vars(model)
        assert all("forward" not in vars(module) for module in model.modules())
    assert torch.equal(model.generate(**arguments(BATCHES[0])), stock[0])


def test_of_several_threads_that_prune_one_wins_and_the_others_are_told() -> None:
    model = build("llama")
    inside = threading.Barrier(4)

    def enter() -> str:
        try:
            with regrow.prune(model, SHORT):
                inside.wait()
                return "pruned"
        except UsageError as error:
            inside.wait()
            return str(error)

    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    results = at_once(*[enter] * 4)
    assert sorted(result == "pruned" for result in results) == [False, False, False, True]
    assert all("already pruned" in result for result in results if result != "pruned")
    assert {name: dict(vars(module)) for name, module in model.named_modules()} == before


def test_two_models_never_wait_for_each_other() -> None:
    first, second = build("llama"), build("llama")
    done: list[Tensor] = []

    def watch(progress: regrow.Progress) -> None:
        if progress.step == 4:
            thread = threading.Thread(target=lambda: done.append(second.generate(**arguments(BATCHES[1]))))
            thread.start()
            thread.join()

    with regrow.prune(first, SHORT), regrow.prune(second, SHORT):
        want = second.generate(**arguments(BATCHES[1]))
        first.generate(watch=watch, **arguments(BATCHES[0]))
    assert torch.equal(done[0], want)


def test_an_error_in_one_thread_is_no_others() -> None:
    model = build("llama")
    want = regrow.generate(model, **arguments(BATCHES[1]), method=SHORT)

    def broken() -> str:
        def watch(progress: regrow.Progress) -> None:
            raise KeyboardInterrupt if progress.step == 5 else KeyError

        with pytest.raises((KeyError, KeyboardInterrupt)):
            regrow.generate(model, **arguments(BATCHES[0]), method=SHORT, watch=watch)
        return "raised"

    good = [lambda: regrow.generate(model, **arguments(BATCHES[1]), method=SHORT)] * 2
    got = at_once(broken, good[0], broken, good[1])
    assert same(got[1], want)
    assert same(got[3], want)
    assert "generate" not in vars(model)


# Leaving while a thread generates


class Paced:
    """A streamer that signals the test after some tokens, and is slow from then on."""

    def __init__(self) -> None:
        self.under_way, self.tokens = threading.Event(), 0

    def put(self, value: Tensor) -> None:
        self.tokens += 1
        if self.tokens > 6:
            self.under_way.set()
            time.sleep(0.01)

    def end(self) -> None:
        pass


@pytest.mark.parametrize("engine", [False, True])
def test_leaving_waits_for_the_thread_that_still_streams(engine: bool) -> None:
    model, streamer, got = build("llama"), Paced(), []
    want = regrow.generate(model, **arguments(BATCHES[0]), method=SHORT)
    with regrow.Engine(model, SHORT) if engine else regrow.prune(model, SHORT) as context:
        session = context.session if isinstance(context, regrow.Engine) else context
        thread = threading.Thread(
            target=lambda: got.append(model.generate(streamer=streamer, **arguments(BATCHES[0])))
        )
        thread.start()
        streamer.under_way.wait()
    assert active_session(model) is None
    thread.join(20)
    assert torch.equal(got[0], want.sequences)
    assert session.report().weights_kept == want.report.weights_kept


def test_a_text_streamer_read_after_the_context() -> None:
    """The thread may take its turn before or after the context ends: its text is all pruned or all dense."""

    class Letters:
        def decode(self, tokens: list[int], **_: Any) -> str:
            return "".join(chr(0x4E00 + token) for token in tokens)

    model = build("llama")
    texts = []
    for context in (regrow.prune(model, SHORT), regrow.prune(model, regrow.Dense())):
        streamer = TextIteratorStreamer(Letters(), skip_prompt=True, timeout=20)  # type: ignore[arg-type]
        with context:
            threading.Thread(
                target=model.generate, kwargs={"streamer": streamer, **arguments(BATCHES[0])}
            ).start()
        texts.append("".join(streamer))
    pruned, dense = (
        Letters().decode(regrow.generate(model, **arguments(BATCHES[0]), method=method).tokens[0])
        for method in (SHORT, None)
    )
    assert texts[0] in (pruned, dense)
    assert texts[1] == dense
    assert pruned != dense


def test_a_call_that_comes_after_the_end_of_its_context_is_the_plain_models() -> None:
    model = build("llama")
    with regrow.prune(model, SHORT):
        call = model.generate
    assert torch.equal(call(**arguments(BATCHES[0])), model.generate(**arguments(BATCHES[0])))


# From inside a generation


INSIDE: dict[str, Callable[[PreTrainedModel, ExitStack], object]] = {
    "model.generate": lambda model, _: model.generate(**arguments(BATCHES[1])),
    "regrow.generate": lambda model, _: regrow.generate(model, **arguments(BATCHES[1])),
    "regrow.prune": lambda model, _: regrow.prune(model, regrow.Dense()).__enter__(),
    "leaving regrow.prune": lambda _, context: context.close(),
}


class Stops(StoppingCriteria):
    def __init__(self, call: Callable[[], object]) -> None:
        self.call = call

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        self.call()
        return torch.zeros(len(input_ids), dtype=torch.bool)


class Streams:
    def __init__(self, call: Callable[[], object]) -> None:
        self.call = call

    def put(self, value: Tensor) -> None:
        self.call()

    def end(self) -> None:
        self.call()


def processed(call: Callable[[], object]) -> Callable[[Tensor, Tensor], Tensor]:
    def process(ids: Tensor, scores: Tensor) -> Tensor:
        call()
        return scores

    return process


DOORS: dict[str, Callable[[Callable[[], object]], dict[str, Any]]] = {
    "criterion": lambda call: {"stopping_criteria": StoppingCriteriaList([Stops(call)])},
    "streamer": lambda call: {"streamer": Streams(call)},
    "processor": lambda call: {"logits_processor": [processed(call)]},
    "watch": lambda call: {"watch": lambda _: call()},
    "mark": lambda call: {"mark": lambda _: call()},
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("what", INSIDE)
def test_a_call_from_inside_a_generation_is_refused_and_disturbs_nothing(what: str, door: str) -> None:
    model, context, said = build("llama"), ExitStack(), []
    want = regrow.generate(model, **arguments(BATCHES[0]), method=SHORT).sequences
    session = context.enter_context(regrow.prune(model, SHORT))
    got = model.generate(
        **arguments(BATCHES[0]),
        **DOORS[door](lambda: said.append(outcome(lambda: INSIDE[what](model, context)))),
    )
    assert torch.equal(got, want)
    assert session.report().sparse_steps > 0
    assert "\n" not in said[0]
    assert said[0].startswith(f"{what} was called from inside a generation")
    if what == "leaving regrow.prune":  # the context is closed when the generation ends
        assert active_session(model) is None
    else:
        assert torch.equal(model.generate(**arguments(BATCHES[0])), want)
        context.close()
    assert "generate" not in vars(model)


@pytest.mark.parametrize("what", ["generate", "close"])
def test_an_engine_called_from_inside_its_own_generation(what: str) -> None:
    model, said = build("llama"), []
    with regrow.Engine(model, SHORT) as engine:
        want = engine.generate(**arguments(BATCHES[0]))
        call = engine.close if what == "close" else lambda: engine.generate(**arguments(BATCHES[1]))
        got = engine.generate(**arguments(BATCHES[0]), watch=lambda progress: said.append(outcome(call)))
        assert same(got, want)
        assert "was called from inside a generation" in said[0]
        if what == "close":
            assert active_session(model) is None
            with pytest.raises(UsageError, match="closed"):
                engine.generate(**arguments(BATCHES[0]))
    assert "generate" not in vars(model)


def test_an_error_of_a_refusal_that_nobody_catches_ends_the_generation_only() -> None:
    model = build("llama")
    with regrow.prune(model, SHORT):
        want = model.generate(**arguments(BATCHES[0]))
        with pytest.raises(UsageError, match="from inside a generation"):
            model.generate(**arguments(BATCHES[0]), watch=lambda _: model.generate(**arguments(BATCHES[1])))
        assert torch.equal(model.generate(**arguments(BATCHES[0])), want)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_forward_during_a_generation_is_the_plain_models(elsewhere: bool, family: str) -> None:
    """The forward is called by a stopping criterion, or by another thread throughout the generation."""
    model = build(family)
    ids = torch.arange(3, 15).view(2, 6) % VOCABULARY
    logits: list[Tensor] = []

    def forward() -> None:
        with torch.no_grad():
            logits.append(model(ids, use_cache=False).logits)

    forward()
    with regrow.prune(model, SHORT) as session:
        want, report = model.generate(**arguments(BATCHES[3])), session.report()
        if elsewhere:
            over = threading.Event()
            thread = threading.Thread(
                target=lambda: [(forward(), time.sleep(1e-3)) for _ in iter(over.is_set, True)]
            )
            thread.start()
            got = [model.generate(**arguments(BATCHES[3])) for _ in range(2)]
            over.set()
            thread.join()
        else:
            got = [
                model.generate(
                    **arguments(BATCHES[3]), stopping_criteria=StoppingCriteriaList([Stops(forward)])
                )
            ]
        assert session.report().weights_kept == report.weights_kept
    assert all(torch.equal(sequences, want) for sequences in got)
    assert len(logits) > 3
    assert all(torch.equal(one, logits[0]) for one in logits)


# Waits that would never end


@pytest.mark.parametrize("wait", ["join", "future"])
def test_a_generation_that_waits_for_a_thread_that_waits_for_it(
    wait: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "PATIENCE", 0.2)
    monkeypatch.setattr(turns, "LOOK", 0.05)
    model, said = build("llama"), []

    def other() -> None:
        said.append(outcome(lambda: regrow.generate(model, **arguments(BATCHES[1]))))

    def watch(progress: regrow.Progress) -> None:
        if progress.step != 5:
            return
        if wait == "join":
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
        else:
            with ThreadPoolExecutor(1) as pool:
                pool.submit(other).result()

    want = regrow.generate(model, **arguments(BATCHES[0]), method=SHORT)
    assert same(regrow.generate(model, **arguments(BATCHES[0]), method=SHORT, watch=watch), want)
    assert "let no callback of a generation wait for a call on the same model" in said[0]
    assert regrow.generate(model, **arguments(BATCHES[1])).tokens


def test_generations_on_two_models_that_wait_for_each_other() -> None:
    """At least one of them raises UsageError, and both end."""
    models, said = [build("llama"), build("qwen2")], []
    both = threading.Barrier(2)

    def cross(one: int) -> regrow.Generation:
        def watch(progress: regrow.Progress) -> None:
            if progress.step == 4:
                both.wait()
                said.append(outcome(lambda: regrow.generate(models[1 - one], **arguments(BATCHES[1]))))

        return regrow.generate(models[one], **arguments(BATCHES[0]), method=SHORT, watch=watch)

    want = [regrow.generate(model, **arguments(BATCHES[0]), method=SHORT) for model in models]
    got = at_once(lambda: cross(0), lambda: cross(1))
    assert all(map(same, got, want))
    assert any(isinstance(one, str) and "let no callback of a generation wait" in one for one in said)


def test_a_slow_callback_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The callback sleeps, or waits several times for threads, but is never blocked in one long wait."""
    monkeypatch.setattr(turns, "PATIENCE", 0.1)
    monkeypatch.setattr(turns, "LOOK", 0.02)
    model, under_way = build("llama"), threading.Event()

    def watch(progress: regrow.Progress) -> None:
        under_way.set()
        time.sleep(0.2 if progress.step == 5 else 0)
        threading.Event().wait(0.03)

    def second() -> regrow.Generation:
        under_way.wait()
        return regrow.generate(model, **arguments(BATCHES[1]), method=SHORT)

    want = regrow.generate(model, **arguments(BATCHES[1]), method=SHORT)
    got = at_once(lambda: regrow.generate(model, **arguments(BATCHES[0]), method=SHORT, watch=watch), second)
    assert same(got[1], want)


def test_an_interrupt_while_leaving_waits_still_restores(monkeypatch: pytest.MonkeyPatch) -> None:
    model, streamer, got = build("llama"), Paced(), []
    want = regrow.generate(model, **arguments(BATCHES[0]), method=SHORT).sequences
    context = regrow.prune(model, SHORT)
    context.__enter__()
    thread = threading.Thread(
        target=lambda: got.append(model.generate(streamer=streamer, **arguments(BATCHES[0])))
    )
    thread.start()
    streamer.under_way.wait()

    def interrupted(self: threading.Condition, timeout: float | None = None) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Condition, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            context.__exit__(None, None, None)
    thread.join(20)
    assert torch.equal(got[0], want)
    assert "generate" not in vars(model)
    assert regrow.generate(model, **arguments(BATCHES[0]), method=SHORT).sequences.equal(want)
