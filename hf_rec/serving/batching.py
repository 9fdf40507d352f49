"""Work that arrives together is computed together, in a thread beside the event loop."""

import asyncio
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any


class Overloaded(Exception):
    """More work waits than the queue holds."""


class Batcher:
    """Awaits `compute` for one piece of work, which a thread calls with all pieces that wait.

    Nothing waits for others to come: what arrives while the thread computes is its next batch. A batcher belongs to
    the event loop that it is made in.

    Args:
        compute: Takes a list of pieces of work and returns the answer to each; an exception in place of an answer is
            raised for that piece alone.
        max_batch: Pieces that are computed together.
        max_waiting: Pieces that wait for the thread.
        name: Of the thread.

    Raises:
        Overloaded: for a piece of work that finds the queue full.

    Example:
        >>> async def squares():
        ...     batcher = Batcher(lambda numbers: [number**2 for number in numbers])
        ...     return await asyncio.gather(*map(batcher, range(4)))
        >>> asyncio.run(squares())
        [0, 1, 4, 9]
    """

    def __init__(
        self,
        compute: Callable[[list], Sequence],
        max_batch: int = 64,
        max_waiting: int = 1000,
        name: str = "batcher",
    ):
        self.compute, self.max_batch, self.max_waiting = compute, max_batch, max_waiting
        self.loop, self.queue = asyncio.get_running_loop(), SimpleQueue()
        self.thread = Thread(target=self.run, name=name, daemon=True)
        self.thread.start()

    @property
    def waiting(self) -> int:
        return self.queue.qsize()

    async def __call__(self, work: Any) -> Any:
        if self.waiting >= self.max_waiting:
            raise Overloaded(f"{self.max_waiting} requests are waiting")
        answer = self.loop.create_future()
        self.queue.put((work, answer))
        return await answer

    async def close(self) -> None:
        """Compute what waits, then end the thread."""
        self.queue.put(None)
        await asyncio.to_thread(self.thread.join)

    def run(self) -> None:
        while (taken := self.take()) is not None:
            taken = [(work, answer) for work, answer in taken if not answer.cancelled()]
            if not taken:
                continue
            try:
                results = self.compute([work for work, _ in taken])
            except Exception as error:
                results = [error] * len(taken)
            self.loop.call_soon_threadsafe(deliver, [answer for _, answer in taken], results)

    def take(self) -> list | None:
        """What waits, the first piece at least; None at the end."""
        first = self.queue.get()
        if first is None:
            return None
        taken = [first]
        while len(taken) < self.max_batch:
            try:
                piece = self.queue.get_nowait()
            except Empty:
                break
            if piece is None:
                self.queue.put(None)  # the end, after this batch
                break
            taken.append(piece)
        return taken


def deliver(answers: Sequence[asyncio.Future], results: Sequence) -> None:
    for answer, result in zip(answers, results, strict=True):
        if answer.done():  # given up on
            continue
        if isinstance(result, Exception):
            answer.set_exception(result)
        else:
            answer.set_result(result)


__all__ = ["Batcher", "Overloaded"]
