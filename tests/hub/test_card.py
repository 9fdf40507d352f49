"""The model card: its metadata, results and text."""

import re

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from recommenders import FACTS, FEATURES, NAMES, RESULTS

from hf_rec import Bert4RecConfig
from hf_rec.hub import model_card
from hf_rec.hub.card import CARD_METRICS, describe


@pytest.mark.parametrize("dataset", ["ml-1m", 'a shop\'s log: "2024" #1'])
def test_metadata_of_the_card_are_the_metrics(tmp_path, dataset):
    model_card("shop", dataset, RESULTS, FACTS).save(tmp_path / "README.md")
    data = ModelCard.load(tmp_path / "README.md").data
    assert data.library_name == "transformers"
    assert data.pipeline_tag == "recommendation"
    assert {"recommendation", "bert4rec"} <= set(data.tags)

    name, results = model_index_to_eval_results(data.to_dict()["model-index"])
    assert name == "shop"
    assert {result.metric_type: result.metric_value for result in results} == {
        metric: round(value, 5) for metric, value in RESULTS["shop"].items()
    }
    assert {(result.dataset_name, result.dataset_split) for result in results} == {(dataset, "test")}


def test_card_claims_a_license_and_a_data_set_only_if_they_are_given():
    assert not {"license", "datasets"} & model_card("shop", "ml-1m", RESULTS, FACTS).data.to_dict().keys()
    card = model_card("shop", "ml-1m", RESULTS, FACTS, license="cc-by-4.0", hub_dataset="user/log")
    assert (card.data.license, card.data.datasets) == ("cc-by-4.0", ["user/log"])


def test_names_on_a_card_are_no_markup():
    name = "a|b <i>`c`\n[d]"
    shown = r"a\|b &lt;i&gt;\`c\` \[d\]"
    text = model_card(name, name, {name: RESULTS["shop"]}, FACTS, repo="user/shop").text
    assert f"\n# {shown}\n" in text
    assert f"**{shown}** (1,234 items" in text
    assert f"\n| {shown} |" in text


def test_card_shows_the_results_beside_the_baselines():
    text = model_card("shop", "ml-1m", RESULTS, FACTS).text
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert rows[0] == ["", *CARD_METRICS]
    table = {name: [float(cell) for cell in cells] for name, *cells in rows[2:]}
    assert list(table) == list(NAMES)
    for name, values in table.items():
        assert values == pytest.approx([RESULTS[name][metric] for metric in CARD_METRICS], abs=5e-5)


def test_card_tells_data_protocol_run_limits_and_source():
    text = model_card("shop", "ml-1m", RESULTS, FACTS, repo="user/shop").text
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", text, flags=re.DOTALL | re.MULTILINE))
    assert "**ml-1m** (1,234 items, 5,678 users, 91,011 interactions for training)" in text
    assert 'pipeline("recommendation", model="user/shop", trust_remote_code=True)' in sections["Use"]
    assert FACTS["protocol"] in sections["Results"]
    assert f"```\n{FACTS['command']}\n```" in sections["Training"]
    assert "Seed 17; 2,345 steps in 68 s on 2 CPU cores; torch 2.13.0." in sections["Training"]
    assert "1,234 items of its catalogue" in sections["Limits"]
    assert "@inproceedings{sun2019bert4rec," in sections["Citation"]
    assert sections["Citation"].count("{") == sections["Citation"].count("}")
    assert re.findall(r"\{[a-z_]+(?:[:!].*?)?\}", text) == ["{x}"]  # no field is left open; {x} is in an item id


def test_description_names_the_kind_of_model_and_what_it_reads():
    config = Bert4RecConfig(vocab_size=10, is_decoder=True, features=FEATURES)
    causal = describe(config, 4_321)
    assert causal["auto_class"] == "AutoModelForCausalLM"
    assert "4,321 parameters" in causal["architecture"]
    for read in ("rating (event)", "country (both)", "time_gap (request)"):
        assert read in causal["architecture"]
    assert "kang2018sasrec" in causal["citation"]
    masked = describe(Bert4RecConfig(vocab_size=10), 4_321)
    assert masked["auto_class"] == "AutoModelForMaskedLM"
    assert "rating" not in masked["architecture"]
    assert "sun2019bert4rec" in masked["citation"]
