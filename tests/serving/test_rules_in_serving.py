"""The same lists by rules from the pipeline, from the exported model and in evaluation; titles and explanations."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import small_model
from rule_worlds import Shop, item_columns, random_rules
from transformers import pipeline

from hf_rec import ItemTokenizer, RankingMetrics, RecommendationCollator
from hf_rec.data import build_sequences, leave_one_out, tokenize_splits
from hf_rec.evaluation import add_rule_columns, compile_rules, evaluate
from hf_rec.evaluation.evaluate import evaluation_arguments
from hf_rec.evaluation.rules import RuleTrainer
from hf_rec.hub.folder import save_recommender
from hf_rec.model.rules import parse_rules

HISTORIES = [["item-3", "item-1"], ["item-5"], [], [f"item-{n}" for n in range(9)], ["item-7", "unheard of"]]
ASSORTMENT = {"rule": "eligible", "column": "regions", "request": "region"}
DAY = 86_400


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The folder of a model with item columns and rules, and its pipeline."""
    folder = tmp_path_factory.mktemp("rules")
    tokenizer = ItemTokenizer.from_items([f"item-{n}" for n in range(20)], max_length=8)
    model = small_model(len(tokenizer), is_decoder=True)
    model.item_columns = item_columns(len(tokenizer))
    model.rules = parse_rules([{"rule": "at_most", "count": 1, "column": "brand", "name": "one of a brand"}])
    save_recommender(folder / "saved", model, tokenizer)
    return folder, pipeline("recommendation", model=folder / "saved")


@pytest.fixture
def recommend(world):
    return world[1]


def items(recommended: list[dict]) -> list[str]:
    return [entry["item_id"] for entry in recommended]


def rules_for(recommend, seeds) -> list[list[dict]]:
    """Random rule sets that hold in the world."""
    found = []
    for seed in seeds:
        rules = random_rules(np.random.default_rng(seed), 20, groups=2)
        try:
            recommend(HISTORIES[0], rules=rules, top_k=1) if ASSORTMENT not in rules else recommend(
                {"item_ids": ["item-1"], "request": {"region": "fr"}}, rules=rules, top_k=1
            )
        except ValueError:
            continue
        found.append(rules)
    return found


def requests(rules: list[dict]) -> list:
    if ASSORTMENT not in rules:
        return HISTORIES
    regions = ["fr", "de", "fr", "at", "de"]
    return [{"item_ids": row, "request": {"region": region}} for row, region in zip(HISTORIES, regions, strict=True)]


def assert_same(lists, expected):
    for one, other in zip(lists, expected, strict=True):
        assert items(one) == items(other)
        assert [entry["score"] for entry in one] == pytest.approx([entry["score"] for entry in other], abs=1e-5)


def test_a_batch_gives_the_lists_of_its_rows_alone_and_breaks_no_rule(recommend):
    shop = Shop(recommend.rule_set(recommend.model.rules, ()).catalogue)
    sets = rules_for(recommend, range(40))
    assert len(sets) > 15
    for rules in sets:
        rows = requests(rules)
        together = recommend(rows, rules=rules, top_k=6, batch_size=3)
        assert_same(together, [recommend([row], rules=rules, top_k=6)[0] for row in rows])
        for row, own in zip(rows, together, strict=True):
            request = row["request"] if isinstance(row, dict) else {}
            tokens = [recommend.id_of_item[item] for item in items(own)]
            assert shop.broken(rules, tokens, request) == []


def test_saved_rules_hold_and_are_replaced_or_extended_in_a_call(recommend):
    def brands(history, **options):
        columns = recommend.model.item_columns
        return [columns.label("brand", recommend.id_of_item[item]) for item in items(recommend(history, **options))]

    one_of_a_brand = [brand for brand in brands(["item-3"], top_k=8) if brand]
    assert len(one_of_a_brand) == len({*one_of_a_brand}) and one_of_a_brand
    free = items(recommend(["item-3"], top_k=8, rules=[]))
    assert free != items(recommend(["item-3"], top_k=8))
    denied = {"rule": "deny", "where": {"items": free[:2]}}
    assert items(recommend(["item-3"], top_k=6, rules=[denied])) == free[2:]
    both = items(recommend(["item-3"], top_k=8, extra_rules=[denied]))
    assert not {*free[:2]} & {*both}
    known = [brand for brand in brands(["item-3"], top_k=8, extra_rules=[denied]) if brand]
    assert len(known) == len({*known})
    made = pipeline("recommendation", model=recommend.model, tokenizer=recommend.tokenizer, rules=[denied])
    assert items(made(["item-3"], top_k=6)) == free[2:]


def test_answers_have_titles_and_columns_may_be_replaced(recommend):
    entry = recommend(["item-3"], top_k=1)[0]
    assert entry["title"] == f"Item {recommend.id_of_item[entry['item_id']]}"
    others = item_columns(23, seed=5)
    shop = Shop(recommend.rule_set([{"rule": "exclude_seen"}], (), others).catalogue)
    rule = {"rule": "allow", "where": {"column": "price", "between": [50, None]}}
    for item in items(recommend(["item-3"], rules=[rule], items=others, top_k=20)):
        assert shop.columns.numbers["price"][recommend.id_of_item[item]] >= 50
    with pytest.raises(TypeError, match="items are ItemColumns"):
        recommend(["item-3"], items={"price": [1]})
    with pytest.raises(ValueError, match="have 9 rows, the vocabulary 23"):
        recommend(["item-3"], rules=[rule], items=item_columns(9))


def test_times_of_a_request_switch_rules(recommend):
    best = items(recommend(["item-3"], rules=[], top_k=3))
    rule = {"rule": "deny", "where": {"items": best[:1]}, "when": {"hours": [20, 24]}}
    for hour, expected in ((19, best), (21, best[1:])):
        history = {"item_ids": ["item-3"], "request": {"time": hour * 3600}}
        assert items(recommend(history, rules=[rule], top_k=len(expected))) == expected
    with pytest.raises(ValueError, match="does not read"):
        recommend({"item_ids": ["item-3"], "request": {"time": 5}}, rules=[])
    with pytest.raises(ValueError, match="'eligible 1' needs 'region'"):
        recommend(["item-3"], rules=[ASSORTMENT])


def test_seen_items_return_after_days(recommend):
    rule = [{"rule": "exclude_seen", "days": 10}]
    history = {"item_ids": ["item-3", "unheard of", "item-5"], "timestamps": [0, 5 * DAY, 95 * DAY]}
    found = {*items(recommend(history | {"request": {"time": 100 * DAY}}, rules=rule, top_k=20))}
    assert "item-3" in found and "item-5" not in found and len(found) == 19
    assert len(recommend(history | {"request": {"time": 200 * DAY}}, rules=rule, top_k=20)) == 20
    with pytest.raises(ValueError, match="needs the timestamps"):
        recommend(["item-3"], rules=rule)
    with pytest.raises(ValueError, match="a rule 'exclude_seen' decides"):
        recommend(["item-3"], rules=[{"rule": "exclude_seen"}], exclude_seen=False)
    assert_same([recommend(["item-3"], rules=[{"rule": "exclude_seen"}])], [recommend(["item-3"], rules=[])])


def test_rules_explain_themselves(recommend, monkeypatch):
    plain = recommend(["item-3"], rules=[], top_k=19)
    place, score = (
        {entry["item_id"]: value for value, entry in enumerate(plain, 1)},
        {e["item_id"]: e["score"] for e in plain},
    )
    low, last = plain[10]["item_id"], plain[18]["item_id"]
    rules = [
        {"rule": "boost", "where": {"items": [low]}, "add": 50.0, "name": "campaign"},
        {"rule": "pin", "item": last, "place": 3},
        {"rule": "deny", "where": {"items": [plain[0]["item_id"]]}, "name": "recall"},
        {"rule": "at_least", "share": 0.2, "where": {"items": [plain[15]["item_id"]]}, "name": "tail"},
    ]
    found = recommend(["item-3"], rules=rules, top_k=6, explain_rules=True)
    expected = [low, plain[1]["item_id"], last, plain[2]["item_id"], plain[15]["item_id"], plain[3]["item_id"]]
    assert items(found) == expected
    assert [entry["place_without_rules"] for entry in found] == [place[item] for item in expected]
    assert [entry["score_without_rules"] for entry in found] == pytest.approx([score[item] for item in expected])
    assert [entry["rules"] for entry in found] == [["campaign"], [], ["pin 2"], [], ["tail"], ["tail"]]
    assert found[0]["score"] == pytest.approx(score[low] + 50)

    def why_not(item, **options):
        answer = recommend.why_not(["item-3"], item, **{"rules": rules, "top_k": 6} | options)
        return answer["place"], answer["rank"], answer["rules"]

    assert why_not(plain[0]["item_id"]) == (None, None, ["recall"])
    assert why_not(low) == (1, 1, [])
    assert why_not(plain[12]["item_id"]) == (None, 12, [])
    assert why_not(plain[4]["item_id"]) == (None, 5, ["campaign", "pin 2", "tail"])
    assert why_not(plain[4]["item_id"], rules=[]) == (5, 5, [])
    monkeypatch.setattr(recommend, "occlude", lambda *_: pytest.fail("why_not needs no reasons"))
    assert why_not(plain[4]["item_id"], rules=[], explain=True) == (5, 5, [])
    limit = [{"rule": "at_most", "count": 1, "column": "brand", "name": "one of a brand"}]
    for item in place:
        _, rank, names = why_not(item, rules=limit)
        if rank <= 6 and names:
            assert names == ["one of a brand"]
            break
    else:
        pytest.fail("no item was left out by its brand")
    reasons = {
        "item-3": ({}, "in the history"),
        plain[1]["item_id"]: ({"blocked": [plain[1]["item_id"]]}, "blocked"),
        plain[2]["item_id"]: ({"candidates": [plain[1]["item_id"]]}, "no candidate"),
    }
    for item, (options, reason) in reasons.items():
        assert reason in recommend.why_not(["item-3"], item, **options)["reason"]
    with pytest.raises(ValueError, match="'unheard of' is not in the catalogue"):
        recommend.why_not(["item-3"], "unheard of")


def test_candidates_and_blocked_items_are_obeyed_with_rules(recommend):
    pin = [{"rule": "pin", "item": "item-9", "place": 1}, {"rule": "pin", "item": "item-8", "place": 2}]
    found = items(recommend(["item-9"], rules=pin, candidates=["item-8", "item-9", "item-4"], top_k=5))
    assert found == ["item-4", "item-8"]  # item-9 is in the history
    assert "item-8" not in items(recommend(["item-9"], rules=pin, blocked=["item-8"], top_k=5))


def test_generate_obeys_the_rules_about_scores(recommend):
    rule = {"rule": "allow", "where": {"column": "price", "between": [None, 60]}}
    rules = recommend.rule_set([rule], ())
    ids = torch.tensor([recommend.tokenizer(["item-3", "item-1"])["input_ids"]])
    generated = recommend.model.generate(ids, max_new_tokens=4, logits_processor=[rules.processor()])[0, 2:]
    prices = recommend.model.item_columns.numbers["price"]
    assert (prices[generated.numpy()] <= 60).all()
    plain = recommend.model.generate(ids, max_new_tokens=4)[0, 2:]
    assert not (prices[plain.numpy()] <= 60).all()
    first = recommend(["item-3", "item-1"], rules=[rule], top_k=1)[0]["item_id"]
    assert recommend.tokenizer.decode(generated[:1]) == [first]


def log_of_regions(seed: int = 0) -> pd.DataFrame:
    rng, rows = np.random.default_rng(seed), []
    for user in range(25):
        times = np.cumsum(rng.integers(1, 20 * DAY, 6))
        for item, time in zip(rng.permutation(22)[:6], times, strict=True):  # two items are not known
            rows.append((f"u{user}", f"item-{item}", int(time), str(rng.choice(["fr", "de", "at"]))))
    return pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "region"])


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_the_rank_in_evaluation_is_the_place_in_the_list(recommend, tmp_path, exclude_seen, monkeypatch):
    monkeypatch.setattr(recommend.model.config, "exclude_seen", exclude_seen)
    model, tokenizer = recommend.model, recommend.tokenizer
    splits = leave_one_out(build_sequences(log_of_regions(), event_columns=["region"]))
    tokenized, test = tokenize_splits(splits, tokenizer), splits["test"]
    timed = [
        {"rule": "exclude_seen", "days": 30},
        {"rule": "boost", "where": {"column": "brand", "any_of": ["brand 1"]}, "add": 2, "when": {"hours": [6, 18]}},
        ASSORTMENT,
        {"rule": "at_most", "count": 2, "column": "genres", "when": {"weekdays": ["monday", "friday", "sunday"]}},
    ]
    hits = 0
    for rules in [timed, *rules_for(recommend, range(60, 72))]:
        compiled = compile_rules(model, tokenizer, rules)
        numbered = add_rule_columns(tokenized["test"], test, tokenizer, compiled, exclude_seen)
        metrics = RankingMetrics(np.ones(len(tokenizer)), ks=(7,))
        trainer = RuleTrainer(
            model,
            evaluation_arguments(str(tmp_path), None, 8),
            data_collator=RecommendationCollator(model.config),
            compute_metrics=metrics.compute,
            metrics=metrics,
            rules=compiled,
        )
        ranked = trainer.predict(numbered).predictions
        needs = {*compiled.request_keys}
        for row, (rank, *ids) in zip(test, ranked.tolist(), strict=True):
            history = {"item_ids": row["item_ids"], "request": {}}
            if needs:
                history["request"]["region"] = row["target_region"]
            if compiled.needs_time:
                history["request"]["time"] = row["target_time"]
                history["timestamps"] = row["timestamps"]
            listed = items(recommend(history, rules=rules, top_k=7))
            assert [recommend.item_of_id[token] for token in ids if token >= 0] == listed
            target = row["target_id"]
            assert rank == listed.index(target) + 1 if target in listed else rank > 7
            hits += target in listed
    assert hits > 30


def test_evaluation_by_rules_changes_the_metrics_of_model_and_lists(recommend):
    model, tokenizer = recommend.model, recommend.tokenizer
    splits = leave_one_out(build_sequences(log_of_regions()))
    tokenized = tokenize_splits(splits, tokenizer)
    plain = evaluate(model, tokenized)
    banned = [f"item-{n}" for n in range(15)]
    compiled = compile_rules(model, tokenizer, [{"rule": "deny", "where": {"items": banned}}])
    tokenized["test"] = add_rule_columns(tokenized["test"], splits["test"], tokenizer, compiled, True)
    ruled = evaluate(model, tokenized, rules=compiled)
    assert ruled["coverage@10"] == 5 / 20 < plain["coverage@10"]
    assert compile_rules(model, tokenizer).names == ["one of a brand"]
    assert compile_rules(model, tokenizer, []) is None


def test_rules_file_of_a_model_is_read_as_json(world):
    saved = json.loads((world[0] / "saved" / "rules.json").read_text())
    assert saved == [{"rule": "at_most", "name": "one of a brand", "count": 1, "column": "brand"}]
