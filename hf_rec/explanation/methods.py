"""How much each player of a [`HistoryGame`] contributes to the score: occlusion, Shapley values, a local surrogate."""

import numpy as np
import torch

from ..model.occlusion import leave_one_out_rows
from .game import HistoryGame

PERMUTATIONS = 25  # that Shapley values are averaged over
SAMPLES = 1000  # that a surrogate is fitted to
KERNEL_WIDTH = 0.25  # of the surrogate, in cosine distance
RIDGE = 1e-3


def captum():
    """`captum.attr`, which the extra `explanation` installs."""
    try:
        import captum.attr
    except ImportError as error:
        raise ImportError("this method needs captum: pip install 'hf_rec[explanation]'") from error
    return captum.attr


def occlusion(game: HistoryGame, _seed: int = 0) -> torch.Tensor:
    """(players,) by how much the score falls without each player alone."""
    values = game.value(leave_one_out_rows(len(game)))
    return values[0] - values[1:]


def shapley(game: HistoryGame, seed: int = 0, permutations: int = PERMUTATIONS) -> torch.Tensor:
    """(players,) Shapley values, estimated from random orders in which the players join.

    Their sum is the score less that of a user without a history. [Castro et al.,
    2009](https://doi.org/10.1016/j.cor.2008.04.004)
    """
    everyone = torch.ones(1, len(game))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return (
            captum()
            .ShapleyValueSampling(lambda present: game.value(present > 0))
            .attribute(everyone, n_samples=permutations, perturbations_per_eval=len(game))[0]
        )


def lime(game: HistoryGame, seed: int = 0, samples: int = SAMPLES) -> torch.Tensor:
    """(players,) coefficients of a linear surrogate of the score near the whole history.

    As LIME explains texts ([Ribeiro et al., 2016](https://arxiv.org/abs/1602.04938)): each sample leaves out a random
    number of random players, and weighs less the more it leaves out.
    """
    from captum._utils.models.linear_model import SkLearnLinearModel

    generator = np.random.default_rng(seed)

    def perturb(everyone, **_):
        yield everyone
        while True:
            absent = generator.permutation(len(game))[: generator.integers(1, len(game) + 1)]
            sample = everyone.clone()
            sample[0, absent] = 0
            yield sample

    def similarity(_everyone, _sample, present, **_):
        distance = 1 - float(present.mean()) ** 0.5  # 1 - cosine to a vector of ones
        return np.exp(-((distance / KERNEL_WIDTH) ** 2))

    surrogate = captum().LimeBase(
        lambda present: game.value(present > 0),
        SkLearnLinearModel("linear_model.Ridge", alpha=RIDGE),
        similarity,
        perturb,
        perturb_interpretable_space=True,
        from_interp_rep_transform=lambda present, *_, **__: present,
        to_interp_rep_transform=None,
    )
    everyone = torch.ones(1, len(game))
    with torch.random.fork_rng(devices=[]):  # captum draws from the generator of the process
        return surrogate.attribute(everyone, n_samples=samples, perturbations_per_eval=game.batch_size)[0].float()


__all__ = ["lime", "occlusion", "shapley"]
