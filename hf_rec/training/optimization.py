"""An optimiser for catalogues so large that updating every item in every step would dominate."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.weak import WeakIdKeyDictionary
from transformers import PreTrainedModel

HOOKS = WeakIdKeyDictionary()  # of the optimiser that a parameter had last


class SparseRowAdamW(torch.optim.AdamW):
    """AdamW that, of a parameter with a sparse gradient, reads and updates the rows that the gradient has.

    As in `torch.optim.SparseAdam`, which takes no dense parameters, the moments of a row wait for its next gradient.
    Sparse gradients are set aside when they arrive, and so are not part of the norm that the Trainer clips, nor
    unscaled by a `GradScaler`: do not take it with float16. In several processes a step exchanges the rows of their
    gradients and takes the mean, as `DistributedDataParallel` does with dense gradients. To use it:

        with sparse_rows(model):
            Trainer(model, optimizer_cls_and_kwargs=(SparseRowAdamW, {"lr": 2e-3}), ...).train()
    """

    def __init__(self, params, **kwargs):
        self.pending = {}  # sparse gradients by parameter
        super().__init__(params, **kwargs)

    def add_param_group(self, param_group):
        super().add_param_group(param_group)
        for parameter in self.param_groups[-1]["params"]:
            if parameter in HOOKS:
                HOOKS[parameter].remove()
            HOOKS[parameter] = parameter.register_post_accumulate_grad_hook(self.set_aside)

    def set_aside(self, parameter: torch.Tensor) -> None:
        if parameter.grad.is_sparse:
            before = self.pending.get(parameter)
            self.pending[parameter] = parameter.grad if before is None else before + parameter.grad
            parameter.grad = None

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        self.pending.clear()

    @torch.no_grad()
    def step(self, closure=None):
        loss = super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter in self.pending:
                    self.update_rows(parameter, mean_of_processes(self.pending.pop(parameter)), group)
        return loss

    def update_rows(self, parameter: torch.Tensor, gradient: torch.Tensor, group: dict) -> None:
        """One step of AdamW for the rows of a coalesced gradient."""
        state = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        (beta1, beta2), step = group["betas"], state["step"].item()
        rows, gradient = gradient.indices()[0], gradient.values()
        mean = state["exp_avg"][rows].lerp_(gradient, 1 - beta1)
        square = state["exp_avg_sq"][rows].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        state["exp_avg"][rows], state["exp_avg_sq"][rows] = mean, square
        scale = square.div(1 - beta2**step).sqrt_().add_(group["eps"])
        decayed = parameter[rows].mul_(1 - group["lr"] * group["weight_decay"])
        parameter[rows] = decayed.addcdiv_(mean, scale, value=-group["lr"] / (1 - beta1**step))


def count_processes() -> int:
    """Processes of the default group of `torch.distributed`, 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def mean_of_processes(gradient: torch.Tensor) -> torch.Tensor:
    """The mean over all processes of a sparse gradient of rows, coalesced. Each process must call it."""
    gradient, processes = gradient.coalesce(), count_processes()
    if processes == 1:
        return gradient
    rows, values = gradient.indices()[0], gradient.values()
    counts = [torch.zeros_like(rows[:1]) for _ in range(processes)]
    dist.all_gather(counts, rows.new_tensor([len(rows)]))
    counts = torch.cat(counts).tolist()
    rows, values = gather_rows(rows, counts), gather_rows(values, counts) / processes
    return torch.sparse_coo_tensor(rows.unsqueeze(0), values, gradient.shape).coalesce()


def gather_rows(tensor: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """The rows of all processes, one after the other; `counts` says how many each has."""
    padded = tensor.new_zeros(max(counts), *tensor.shape[1:])
    padded[: len(tensor)] = tensor
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


@contextmanager
def sparse_rows(model: PreTrainedModel) -> Iterator[None]:
    """A context in which the item tables have sparse gradients, for [`SparseRowAdamW`].

    In several processes it leaves the tables out of `DistributedDataParallel`, which would make their gradients dense,
    and gives all processes the tables of the first one.
    """
    ids = {id(table.id_embeddings.weight) for table in model.tables}
    weights = {name: weight for name, weight in model.named_parameters() if id(weight) in ids}
    try:
        for table in model.tables:
            table.sparse_gradients = True
        if count_processes() > 1:
            for weight in weights.values():
                dist.broadcast(weight.data, 0)
            DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, [*weights])
        yield
    finally:
        for table in model.tables:
            table.sparse_gradients = False
        vars(model).pop("_ddp_params_and_buffers_to_ignore", None)


__all__ = ["SparseRowAdamW", "sparse_rows"]
