"""Rounds the weights of a model that nobody is using."""

from __future__ import annotations

from collections.abc import Callable

from transformers import PreTrainedModel

from regrow.adapter.rounded import round_linears
from regrow.errors import UsageError
from regrow.hosts.hugging_face import active_session, turn
from regrow.kernels import GROUP


def round_weights(
    model: PreTrainedModel, group: int = GROUP, progress: Callable[[int, int], None] | None = None
) -> float:
    """Rounds the weights of all linear layers of the decoder blocks to 4 bits, in place.

    Embedding, head, norms and biases stay as they are. Within each row of a weight, `group` weights
    share a scale and an offset, and every weight becomes the nearest of 16 values. The ends of a group are
    rounded off where that makes the error smaller. The model is lossy from then on, and every method runs on
    it. On a CPU with AVX-512 VNNI, decode steps of a bfloat16 model of a known family multiply the codes
    themselves by inputs that are rounded to 8 bits. The codes take about a quarter of the bytes of the
    weights and are kept beside them. Elsewhere the rounded weights run as any other weights do.

    The call waits for a generation in another thread. Weights are rounded one after another, so a model whose
    rounding was interrupted has some layers rounded and the others as they were, and no weight half written;
    another call rounds the rest. Rounding a rounded model again keeps all codes of ordinary groups. In
    bfloat16 it changes the scale of a few groups in the last bit.

    Args:
        model: A causal language model of transformers with gated FFNs, in evaluation mode.
        group: Weights of a row that share a scale and an offset, a multiple of 8.
        progress: A callback that is called as `progress(layers done, all layers)` after every layer.

    Returns:
        The norm of the change, as a share of the norm of the weights that were rounded.

    Raises:
        UsageError: if the model is pruned at the moment, quantised, offloaded or without gated FFNs, if a
            weight is not finite, or if the group is not a multiple of 8. The model is then unchanged.

    Example:
        ```python
        error = regrow.round_weights(model)
        done = regrow.generate(model, tokenizer, prompts, method="bap")
        ```
    """
    with turn(model).take("regrow.round_weights"):
        if active_session(model) is not None:
            raise UsageError(
                "this model is pruned at the moment; leave the `with regrow.prune(...)`, or close the "
                "engine, before you round its weights"
            )
        return round_linears(model, group, progress)
