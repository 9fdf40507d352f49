import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.trainer_pt_utils import get_length_grouped_indices

from hf_rec.sampler import ShuffledLengthGroupedSampler

LENGTHS = torch.randint(1, 200, (1003,), generator=torch.Generator().manual_seed(0)).tolist()


def batches(indices, size=10):
    return [tuple(indices[start : start + size]) for start in range(0, len(indices), size)]


@given(st.lists(st.integers(1, 300), min_size=1, max_size=60), st.integers(1, 70), st.integers(0, 3))
def test_each_history_comes_once_in_an_epoch(lengths, batch_size, epoch):
    sampler = ShuffledLengthGroupedSampler(batch_size, lengths)
    sampler.set_epoch(epoch)
    assert sorted(sampler) == list(range(len(lengths)))
    assert len(sampler) == len(lengths)


def test_batches_are_those_of_transformers_in_another_order():
    generator = torch.Generator().manual_seed(7)
    grouped = batches(get_length_grouped_indices(LENGTHS, 10, generator=generator))
    shuffled = batches(list(ShuffledLengthGroupedSampler(10, LENGTHS, seed=7)))
    assert shuffled != grouped
    assert set(shuffled) == set(grouped)
    assert shuffled[-1] == grouped[-1] and len(shuffled[-1]) == 3


def test_the_lengths_of_batches_do_not_fall_one_after_the_other():
    def falls(order):
        means = [sum(LENGTHS[i] for i in batch) / 10 for batch in batches(order)[:-1]]
        return sum(after < before for before, after in zip(means, means[1:], strict=False)) / len(means)

    assert falls(get_length_grouped_indices(LENGTHS, 10)) > 0.9
    assert 0.4 < falls(list(ShuffledLengthGroupedSampler(10, LENGTHS))) < 0.6


def test_an_epoch_has_its_own_order_and_gives_it_again():
    sampler, again = (ShuffledLengthGroupedSampler(10, LENGTHS, seed=3) for _ in range(2))
    first = list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) != first
    torch.rand(5)  # whatever else draws
    assert list(again) == first
