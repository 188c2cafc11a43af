"""vLLM's CPU worker with a model runner that prunes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

from torch import Tensor
from vllm.v1.worker import cpu_worker
from vllm.v1.worker.cpu_model_runner import CPUModelRunner

from regrow.adapter.patch import Patch
from regrow.errors import UsageError
from regrow.hosts.vllm import op
from regrow.hosts.vllm.ffns import blocks, find_served, kept_weights, patched
from regrow.hosts.vllm.metrics import Metrics
from regrow.hosts.vllm.requests import Scheduled
from regrow.hosts.vllm.served import Served
from regrow.hosts.vllm.settings import KEY, ServeSettings


@final
class ServingCPUModelRunner(CPUModelRunner):
    """Plans a pass from what vLLM has scheduled, runs it, and commits it after sampling."""

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        with kept_weights() as kept:
            super().load_model(*args, **kwargs)
        ffns = find_served(self.model, kept)
        settings = ServeSettings.of(self.vllm_config.additional_config[KEY])
        self.served = Served(settings, blocks(ffns), self.scheduler_config.max_num_seqs)
        self._metrics = Metrics(self.served.session)
        layers = self.compilation_config.static_forward_context
        pruned = ffns[: self.served.places]
        for place, ffn in enumerate(pruned):
            op.add(layers, ffn.name, self.served.runs(place))
        patched(pruned, op.forward)

    def _update_states(self, scheduler_output: Any) -> Any:
        """Raises UsageError for a request whose prompt goes on after its first tokens (streaming input)."""
        ended = scheduler_output.finished_req_ids
        new = {one.req_id for one in scheduler_output.scheduled_new_reqs}
        if new & (self.requests.keys() - ended):
            raise UsageError("Regrow does not serve streaming input; send the whole prompt at once")
        self.served.leave([*ended, *(scheduler_output.preempted_req_ids or ())])
        self._metrics.update(self.served.running)
        self._scheduled = scheduler_output.num_scheduled_tokens
        return super()._update_states(scheduler_output)

    def _model_forward(
        self, input_ids: Tensor | None = None, positions: Tensor | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        scheduled = self._shares()
        assert positions is not None
        tokens = sum(one.tokens for one in scheduled)
        with self.served.passing(scheduled, positions[:tokens]):
            return super()._model_forward(input_ids, positions, *args, **kwargs)

    def sample_tokens(self, grammar_output: Any) -> Any:
        sampled = super().sample_tokens(grammar_output)
        self.served.end()
        self._metrics.update(self.served.running)
        return sampled

    def _shares(self) -> Sequence[Scheduled]:
        """Returns the shares of the requests in the pass, in the order of its tokens."""
        batch = self.input_batch
        return [
            Scheduled(
                request,
                self._scheduled[request],
                int(batch.num_computed_tokens_cpu[place]),
                int(batch.num_tokens_no_spec[place]),
            )
            for place, request in enumerate(batch.req_ids)
        ]


@final
class ServingCPUWorker(cpu_worker.CPUWorker):
    """Builds our model runner where vLLM's worker builds its own."""

    def init_device(self) -> None:
        with Patch() as patch:
            patch.replace(cpu_worker, "CPUModelRunner", ServingCPUModelRunner)
            super().init_device()
        if not isinstance(self.model_runner, ServingCPUModelRunner):
            raise UsageError(
                f"vLLM has built a {type(self.model_runner).__name__}, in which Regrow cannot run; "
                "set VLLM_USE_V2_MODEL_RUNNER=0, or leave regrow out of additional-config"
            )

    def determine_available_memory(self) -> int:
        """Returns the bytes of the KV cache. If they were not given, Regrow's own memory is left free."""
        available: int = super().determine_available_memory()
        given = self.cache_config.kv_cache_memory_bytes is not None
        return available if given else self.model_runner.served.remaining(available)

    def reload_weights(self, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Raises UsageError, because masks keep copies of the weights that the server has started with."""
        raise UsageError("a server with Regrow inside cannot change its weights; start another one")

    update_weights = start_weight_update = reload_weights
