"""The order of training: each step has histories of any lengths, and each of its parts those of similar length."""

from collections.abc import Iterator, Sequence

import torch
from transformers.trainer_pt_utils import LengthGroupedSampler


class ShuffledLengthGroupedSampler(LengthGroupedSampler):
    """Histories in any order, sorted by length within each `batch_size` of them, the longest first.

    The parts of a training step, of which the Trainer adds up the gradients, so have little padding, and the step is
    that of any histories. Transformers' own sampler sorts 50 times as many, so that steps go from the longest
    histories to the shortest, and so does what is learned, over and over.

    Args:
        batch_size: Histories in a step, all of its parts.
        lengths: Of each history, as the input takes it.
        seed: Of the order, which is another one in each epoch, and the same in all processes.
    """

    def __init__(self, batch_size: int, lengths: Sequence[int], seed: int = 0):
        super().__init__(batch_size, lengths=lengths)
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        lengths = torch.as_tensor(self.lengths)
        for step in torch.randperm(len(lengths), generator=generator).split(self.batch_size):
            yield from step[lengths[step].argsort(descending=True)].tolist()


__all__ = ["ShuffledLengthGroupedSampler"]
