"""The order of training: histories of similar length share a batch, and the batches come in any order."""

from collections.abc import Iterator

import torch
from transformers.trainer_pt_utils import LengthGroupedSampler, get_length_grouped_indices


class ShuffledLengthGroupedSampler(LengthGroupedSampler):
    """Batches of Transformers' sampler, shuffled.

    As they come from there, 50 batches go from the longest histories to the shortest, and so does what is learned,
    over and over.

    Args:
        batch_size: Histories in a batch.
        lengths: Of each history, as the input takes it.
        seed: Of the order, which is another one in each epoch, and the same in all processes.
    """

    def __init__(self, batch_size: int, lengths: list[int], seed: int = 0):
        super().__init__(batch_size, lengths=lengths)
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        indices = get_length_grouped_indices(self.lengths, self.batch_size, generator=generator)
        whole = len(indices) - len(indices) % self.batch_size
        batches = torch.tensor(indices[:whole]).view(-1, self.batch_size)
        shuffled = batches[torch.randperm(len(batches), generator=generator)].flatten()
        return iter(shuffled.tolist() + indices[whole:])


__all__ = ["ShuffledLengthGroupedSampler"]
