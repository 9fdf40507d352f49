from collections import Counter

from hf_rec.data.demo_log import shop_log
from hf_rec.data.sequences import build_sequences


def test_the_shop_log_is_seeded_and_its_purchases_are_of_its_items():
    purchases, items = shop_log(num_users=50, seed=1)
    assert purchases.equals(shop_log(50, 1)[0])
    assert not purchases.equals(shop_log(50, 2)[0])
    assert len(set(items["title"].to_pylist())) == items.num_rows == 240
    assert set(purchases["item_id"].to_pylist()) <= set(items["item_id"].to_pylist())
    lengths = Counter(map(len, build_sequences(purchases)["item_ids"]))
    assert sum(lengths.values()) == 50
    assert 6 <= min(lengths) < max(lengths) <= 12
