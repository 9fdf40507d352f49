import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_rec.training.sampler import ShuffledLengthGroupedSampler

LENGTHS = torch.randint(1, 200, (1003,), generator=torch.Generator().manual_seed(0)).tolist()


@given(st.lists(st.integers(1, 300), min_size=1, max_size=60), st.integers(1, 70), st.integers(0, 3))
def test_each_history_comes_once_in_an_epoch(lengths, batch_size, epoch):
    sampler = ShuffledLengthGroupedSampler(batch_size, lengths)
    sampler.set_epoch(epoch)
    assert sorted(sampler) == list(range(len(lengths)))
    assert len(sampler) == len(lengths)


def test_a_step_has_any_histories_sorted_by_length():
    lengths = torch.tensor(LENGTHS)
    steps = lengths[list(ShuffledLengthGroupedSampler(100, LENGTHS, seed=7))].split(100)
    assert all(torch.equal(step, step.sort(descending=True).values) for step in steps)
    means = torch.stack([step.float().mean() for step in steps[:-1]])
    assert means.std() < 2 * lengths.float().std() / 100**0.5  # as of random samples
    assert len(steps[-1]) == 3


def test_an_epoch_has_its_own_order_and_gives_it_again():
    sampler, again = (ShuffledLengthGroupedSampler(10, LENGTHS, seed=3) for _ in range(2))
    first = list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) != first
    torch.rand(5)  # whatever else draws
    assert list(again) == first
