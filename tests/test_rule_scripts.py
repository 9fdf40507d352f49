"""The script that measures what rules cost, on small catalogues."""

import sys

import benchmark_rules


def test_the_benchmark_of_rules_times_calls_with_and_without_them(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmark_rules.py", "--num_items", "60", "300", "--calls", "2"])
    benchmark_rules.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]
    assert [(row[0], row[1]) for row in rows] == [
        (size, name) for size in ("60", "300") for name in benchmark_rules.RULES
    ]
    for _, _, compiling, ruled, plain, cost in rows:
        assert min(map(float, (compiling, ruled, plain))) > 0
        assert abs(float(ruled) - float(plain) - float(cost)) < 0.02


def test_the_rules_of_the_benchmark_change_the_lists():
    recommend = benchmark_rules.random_pipeline(300)
    history = [f"item-{number}" for number in range(10, 30)]
    lists = [recommend(history, rules=rules) for rules in benchmark_rules.RULES.values()]
    plain = recommend(history)
    assert all(found != plain for found in lists)
    assert lists[1][2]["item_id"] == "item-7"
