"""An optimiser for catalogues so large that updating every item in every step would dominate."""

import torch
from torch.utils.weak import WeakIdKeyDictionary

HOOKS = WeakIdKeyDictionary()  # of the optimiser that a parameter had last


class SparseRowAdamW(torch.optim.AdamW):
    """AdamW that, of a parameter with a sparse gradient, reads and updates the rows that the gradient has.

    As in `torch.optim.SparseAdam`, which takes no dense parameters, the moments of a row wait for its next gradient.
    Sparse gradients are set aside when they arrive, and so are not part of the norm that the Trainer clips, nor
    averaged over processes, nor unscaled by a `GradScaler`: take it in one process, and not with float16. To use it:

        model.get_input_embeddings().sparse = True
        Trainer(model, optimizer_cls_and_kwargs=(SparseRowAdamW, {"lr": 2e-3}), ...)
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
                    self.update_rows(parameter, self.pending.pop(parameter).coalesce(), group)
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


__all__ = ["SparseRowAdamW"]
