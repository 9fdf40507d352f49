"""A saved classifier opens without this package and gives the same answers."""

import json
from pathlib import Path

import pytest
import torch
import without_package
from recommenders import BRAND, CODE, FEATURES, ITEMS, contents, run_python
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, pipeline

from hf_rec import Bert4RecConfig, Bert4RecForSequenceClassification, ItemTokenizer
from hf_rec.hub import save_recommender
from hf_rec.hub.card import model_card
from hf_rec.hub.classifier_card import CLASSIFIER, describe_classifier
from hf_rec.serving import export_recommender

HISTORIES = [
    {
        "item_ids": ["item-3", "never sold", "green tea"],
        "rating": ["3", "1", None],
        "timestamps": [100, 200, 5_000],
        "request": {"time": 90_000, "country": "fr"},
        "items": ["item-1", "été", "never sold"],
    },
    {"item_ids": [], "item": "item-5"},
]
RESULTS = {
    name: {"auc": 0.5 + n / 7, "log_loss": 0.6 - n / 9, "labels": 30} for n, name in enumerate(("prior", "shop"))
}
OUTSIDE = """
import json, sys
sys.path[:0] = [{tests!r}]
from without_package import Blocker, follow_card
sys.meta_path.insert(0, Blocker())
from transformers import AutoModelForSequenceClassification, pipeline
folder = sys.argv[1]
model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
predict = pipeline("behavior-prediction", model=folder, trust_remote_code=True)
refused = []
open_pipeline = lambda name: pipeline("behavior-prediction", model=name)
for load in (AutoModelForSequenceClassification.from_pretrained, open_pipeline):
    try:
        load(folder)
    except ValueError as error:
        refused.append(str(error))
print()  # ends the questions that Transformers asks
print(json.dumps({{
    "classes": [type(model).__name__, type(predict).__name__, type(predict.model).__name__],
    "answers": predict(json.loads(sys.argv[2]), top_k=None),
    "card": follow_card(folder),
    "refused": refused,
    "package": [name for name in sys.modules if name.partition(".")[0] == "hf_rec"],
}}))
"""


def save_classifier(folder: Path, is_decoder: bool, example) -> None:
    tokenizer = ItemTokenizer.from_items(ITEMS, max_length=8)
    torch.manual_seed(0)
    config = Bert4RecConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        max_position_embeddings=8,
        initializer_range=0.5,
        is_decoder=is_decoder,
        features=FEATURES,
        item_features=[BRAND],
        label_of="event",
        id2label={0: "no", 1: "yes"},
        label2id={"no": 0, "yes": 1},
    )
    model = Bert4RecForSequenceClassification(config).eval()
    model.store_items(torch.tensor([4, 6, 9]), {"brand": ["acme", "oak", "acme"]})
    facts = describe_classifier(config, model.num_parameters()) | {
        "label": "buys",
        "num_items": 21,
        "num_users": 5,
        "num_labels": 9,
        "example": example,
        "protocol": "Split: leave-one-out.",
        "command": "hf-rec train",
        "seed": 0,
        "steps": 10,
        "seconds": 1.5,
        "machine": "a machine",
        "versions": "torch",
    }
    card = model_card("shop", "a shop log", RESULTS, facts, repo=str(folder), kind=CLASSIFIER)
    save_recommender(folder, model, tokenizer, card)


def flat(answers) -> list[dict]:
    return [row for answer in answers for part in answer for row in (part if isinstance(part, list) else [part])]


@pytest.mark.parametrize("is_decoder", [False, True])
def test_stock_transformers_gives_the_same_answers(is_decoder, tmp_path):
    folder = tmp_path / "classifier"
    save_classifier(folder, is_decoder, HISTORIES[1])
    assert set(CODE) < set(contents(folder))
    here = pipeline("behavior-prediction", model=str(folder))
    tests = str(Path(without_package.__file__).parent)
    arguments = ("-c", OUTSIDE.format(tests=tests), folder, json.dumps(HISTORIES))
    done = run_python(*arguments, home=tmp_path / "home", HF_HUB_OFFLINE="1")
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["package"] == []
    assert found["classes"] == [
        "Bert4RecForSequenceClassification",
        "BehaviorPredictionPipeline",
        "Bert4RecForSequenceClassification",
    ]
    assert len(found["refused"]) == 2 and all("trust_remote_code" in message for message in found["refused"])
    expected = [row | {"score": pytest.approx(row["score"], abs=1e-5)} for row in flat(here(HISTORIES, top_k=None))]
    assert flat(found["answers"]) == expected and len(expected) == 8
    assert found["card"] == [
        row | {"score": pytest.approx(row["score"], abs=1e-5)} for row in here(HISTORIES[1], top_k=None)
    ]


def test_the_card_has_the_results_of_the_model_and_of_the_baselines(tmp_path):
    save_classifier(tmp_path / "classifier", True, HISTORIES[1])
    text = (tmp_path / "classifier" / "README.md").read_text(encoding="utf-8")
    assert "| prior | 0.5000 | 0.6000   |" in text and "| shop  | 0.6429 | 0.4889   |" in text
    assert "pipeline_tag: behavior-prediction" in text and "value: 0.64286" in text
    assert "`no`, `yes`" in text and "**buys**, a label of an event whose item is known" in text
    assert "labels |" not in text


def test_a_recommender_keeps_its_own_pipeline(tmp_path):
    for label_of, task in ((None, "recommendation"), ("user", "behavior-prediction")):
        Bert4RecConfig(label_of=label_of).save_pretrained(tmp_path)
        saved = json.loads((tmp_path / "config.json").read_text())
        assert [*saved["custom_pipelines"]] == [task]


@pytest.mark.parametrize("is_decoder", [True, False])
def test_a_classifier_is_opened_as_no_recommender(is_decoder, tmp_path):
    folder = str(tmp_path / "classifier")
    save_classifier(tmp_path / "classifier", is_decoder, HISTORIES[1])
    auto_class = AutoModelForCausalLM if is_decoder else AutoModelForMaskedLM
    for load in (auto_class.from_pretrained, lambda path: export_recommender(path, tmp_path / "exported")):
        with pytest.raises(ValueError, match="recommends, but .*label_of='event'.*ForSequenceClassification"):
            load(folder)
    assert not (tmp_path / "exported").exists()
