"""A small shop log that the package generates itself, for the demo and for tests."""

import numpy as np
import pyarrow as pa

STYLES = ["Oak", "Copper", "Indigo", "Olive", "Ivory"]
PROJECTS = {
    project: products.split(", ")
    for project, products in {
        "coffee": "grinder, dripper, filter papers, kettle, scale, espresso cups, beans tin, milk jug",
        "garden": "trowel, gloves, seed tray, watering can, planter, trellis, bird feeder, lantern",
        "baking": "mixing bowl, whisk, loaf tin, rolling pin, proofing basket, oven mitt, cake stand, apron",
        "writing": "notebook, fountain pen, ink bottle, blotter, desk lamp, letter tray, wax seal, pen case",
        "camping": "tent pegs, camp stove, mess kit, head torch, sleeping mat, flask, cool box, hammock",
        "nursery": "crib mobile, night light, blanket, basket, wall shelf, play mat, bookend, rattle",
    }.items()
}


def shop_log(num_users: int = 3000, seed: int = 0) -> tuple[pa.Table, pa.Table]:
    """Purchases of shoppers who furnish two projects at a time, each in a style of its own, with some chance buys.

    What is bought next follows from both projects and their styles, so from more than the last purchase.

    Returns:
        `user_id`, `item_id`, `timestamp` (seconds) of each purchase, and `item_id`, `title`, `category` of each item.
    """
    rng = np.random.default_rng(seed)
    items = [(project, step, style) for project in PROJECTS for step in range(8) for style in range(len(STYLES))]
    index = {item: number for number, item in enumerate(items)}
    appeal = rng.zipf(1.6, len(items)).astype(float)
    appeal /= appeal.sum()

    purchases = []
    for user in range(num_users):
        projects = rng.choice(list(PROJECTS), 2, replace=False)
        styles = rng.choice(len(STYLES), 2, p=[0.35, 0.25, 0.2, 0.12, 0.08], replace=False)
        steps = rng.integers(0, 3, 2)
        time = 1_700_000_000 + int(rng.integers(0, 30_000_000))
        for _ in range(rng.integers(6, 13)):
            time += int(rng.integers(600, 400_000))
            turn = rng.integers(2)
            if rng.random() < 0.1 or steps[turn] >= 8:
                item = int(rng.choice(len(items), p=appeal))
            else:
                item = index[projects[turn], int(steps[turn]), int(styles[turn])]
                steps[turn] += 1
            purchases.append((f"shopper-{user:04}", f"sku-{item:03}", time))
    users, skus, times = zip(*purchases, strict=True)
    titles = [f"{STYLES[style]} {PROJECTS[project][step]}" for project, step, style in items]
    return (
        pa.table({"user_id": users, "item_id": skus, "timestamp": times}),
        pa.table(
            {
                "item_id": [f"sku-{number:03}" for number in range(len(items))],
                "title": titles,
                "category": [project for project, _, _ in items],
            }
        ),
    )
