"""The micro-batches of the service."""

import asyncio
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_rec.serving.batching import Batcher, Overloaded


class Halting:
    """A `compute` that waits until it may go on, and remembers its batches."""

    def __init__(self):
        self.batches, self.started, self.go_on = [], threading.Event(), threading.Event()

    def __call__(self, works):
        self.batches.append(list(works))
        self.started.set()
        assert self.go_on.wait(10)
        return [ValueError("odd") if work % 2 else -work for work in works]

    async def halt(self, batcher) -> asyncio.Task:
        """Let it wait in its first batch, which is a 0."""
        first = asyncio.create_task(batcher(0))
        await asyncio.to_thread(self.started.wait, 10)
        return first


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 7))
@settings(max_examples=30)
def test_what_waits_is_computed_together_in_order_and_each_piece_gets_its_own_answer(works, max_batch):
    async def run():
        compute = Halting()
        batcher = Batcher(compute, max_batch=max_batch)
        first = await compute.halt(batcher)
        waiting = [asyncio.create_task(batcher(work)) for work in works]
        await asyncio.sleep(0)
        assert batcher.waiting == len(works)
        compute.go_on.set()
        answers = await asyncio.gather(first, *waiting, return_exceptions=True)
        await batcher.close()
        return compute.batches, answers

    batches, answers = asyncio.run(run())
    assert batches == [[0]] + [works[start : start + max_batch] for start in range(0, len(works), max_batch)]
    assert [str(answer) for answer in answers] == ["0", *("odd" if work % 2 else str(-work) for work in works)]


def test_a_full_queue_refuses_and_takes_work_again_when_it_is_empty():
    async def run():
        compute = Halting()
        batcher = Batcher(compute, max_waiting=2)
        first = await compute.halt(batcher)
        waiting = [asyncio.create_task(batcher(2)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="2 requests"):
            await batcher(2)
        compute.go_on.set()
        assert await asyncio.gather(first, *waiting) == [0, -2, -2]
        assert await batcher(4) == -4
        await batcher.close()

    asyncio.run(run())


def test_work_that_was_given_up_is_not_computed():
    async def run():
        compute = Halting()
        batcher = Batcher(compute)
        first = await compute.halt(batcher)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await batcher(6)
        kept = asyncio.create_task(batcher(8))
        await asyncio.sleep(0)
        compute.go_on.set()
        assert await asyncio.gather(first, kept) == [0, -8]
        await batcher.close()
        assert compute.batches == [[0], [8]]

    asyncio.run(run())


def test_an_error_of_the_whole_batch_is_that_of_each_piece_and_the_thread_goes_on():
    def invert(works):
        return [1 / work for work in works]

    async def run():
        batcher = Batcher(invert)
        with pytest.raises(ZeroDivisionError):
            await batcher(0)
        assert await batcher(4) == 0.25
        await batcher.close()

    asyncio.run(run())


def test_what_waits_at_the_end_is_computed_and_the_thread_ends():
    async def run():
        compute = Halting()
        batcher = Batcher(compute, max_batch=1)
        first = await compute.halt(batcher)
        waiting = [asyncio.create_task(batcher(work)) for work in (2, 4)]
        await asyncio.sleep(0)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0.01)
        compute.go_on.set()
        assert await asyncio.gather(first, *waiting) == [0, -2, -4]
        await closing
        assert not batcher.thread.is_alive()

    asyncio.run(run())
