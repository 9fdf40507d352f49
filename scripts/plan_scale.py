#!/usr/bin/env python
"""Sizes and times of a very large recommender, worked out from a few numbers: the table of `docs/scale.md`.

The measured numbers are arguments, too: bytes of an event on the disk from `benchmark_shards.py`, times at a million
items from `benchmark_scaling.py`. Times grow in proportion from there, which is a plan and no measurement.
"""

from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser, Namespace

FLOAT = 4  # bytes
UNITS = {"PB": 1e15, "TB": 1e12, "GB": 1e9, "MB": 1e6, "kB": 1e3}
TIMES = {"years": 365 * 86_400, "days": 86_400, "hours": 3_600, "minutes": 60, "s": 1, "ms": 1e-3}


def in_units(value: float, units: dict[str, float]) -> str:
    """A value in the largest unit of which it is at least one.

    Example:
        >>> in_units(51.2e9, UNITS), in_units(0.5, TIMES)
        ('51.2 GB', '500 ms')
    """
    unit = next((unit for unit, size in units.items() if value >= size), [*units][-1])
    return f"{value / units[unit]:.3g} {unit}"


def size(value: float) -> str:
    return in_units(value, UNITS)


def duration(value: float) -> str:
    return in_units(value, TIMES)


def plan(given: Namespace) -> list[tuple[str, str, str]]:
    """Rows of what is needed, how it is worked out, and how much it is."""
    users, items, rate = f"{given.users:.3g} users", f"{given.items:.3g} items", given.sequences_per_second
    events, row, machines = given.users * given.events_per_user, given.hidden_size * FLOAT, given.machines
    rows, epoch = given.batch * given.length + given.negatives, given.users / rate
    lists = given.users / given.lists_per_second / machines
    buffer = given.buffer * given.events_per_user
    return [
        (
            "sequences in Parquet",
            f"{events:.3g} events x {given.bytes_per_event} B",
            size(events * given.bytes_per_event),
        ),
        ("tokens mapped into memory", f"{events:.3g} events x {FLOAT} B", size(events * FLOAT)),
        ("buffer of a stream", f"{given.buffer:,} users' tokens", size(buffer * FLOAT)),
        ("item table", f"{items} x {given.hidden_size} x {FLOAT} B", size(given.items * row)),
        ("item table and moments of AdamW", "3 tables", size(3 * given.items * row)),
        ("the same on each device", f"{given.devices} devices", size(3 * given.items * row / given.devices)),
        ("rows that a step uses", f"{given.batch} x {given.length} + {given.negatives} negatives", f"{rows:,}"),
        ("traffic of a step, these rows alone", f"2 x {rows:,} x {row} B", size(2 * rows * row)),
        ("traffic of a step, the whole table", "1 table", size(given.items * row)),
        ("training step, 2 cores", f"{given.batch} sequences at {rate:,.0f}/s", duration(given.batch / rate)),
        ("epoch, 2 cores", f"{users} at {rate:,.0f}/s", duration(epoch)),
        (f"epoch, {machines} x 2 cores", "in proportion", duration(epoch / machines)),
        ("cost of an epoch", f"{given.price} a core-hour", f"{2 * epoch / TIMES['hours'] * given.price:,.0f}"),
        (
            "exact list of a user, 2 cores",
            f"{given.rank_ms} ms a million items",
            duration(given.rank_ms * given.items / 1e9),
        ),
        ("index of codes", f"{items} x {given.code_bytes} B", size(given.items * given.code_bytes)),
        ("lists of all users, two stages", f"{machines} x {given.lists_per_second:,.0f}/s", duration(lists)),
        ("sessions", f"{users} x {given.events_per_user} events x 16 B", size(16 * events)),
    ]


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=ArgumentDefaultsHelpFormatter)
    parser.add_argument("--users", type=float, default=1e9, help="users")
    parser.add_argument("--items", type=float, default=1e8, help="items")
    parser.add_argument("--events_per_user", type=int, default=50, help="events of a user")
    parser.add_argument("--hidden_size", type=int, default=128, help="numbers of an item's vector")
    parser.add_argument("--length", type=int, default=50, help="positions of the input")
    parser.add_argument("--batch", type=int, default=128, help="sequences of a step in one process")
    parser.add_argument("--negatives", type=int, default=1_024, help="sampled negatives of a step")
    parser.add_argument("--devices", type=int, default=8, help="devices that share the table")
    parser.add_argument("--machines", type=int, default=64, help="machines that train or rank")
    parser.add_argument("--bytes_per_event", type=float, default=10.4, help="measured: of an event in Parquet")
    parser.add_argument("--sequences_per_second", type=float, default=1_103, help="measured: of a machine in training")
    parser.add_argument("--rank_ms", type=float, default=12.67, help="measured: exact list, a million items, ms")
    parser.add_argument("--lists_per_second", type=float, default=1_000, help="assumed: two stages, a machine")
    parser.add_argument("--code_bytes", type=int, default=16, help="bytes of an item in an index of codes")
    parser.add_argument("--buffer", type=int, default=20_000, help="users among which a stream is shuffled")
    parser.add_argument("--price", type=float, default=0.05, help="assumed: of a core for an hour")
    print("| what | worked out | how much |\n|---|---|---:|")
    for row in plan(parser.parse_args()):
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
