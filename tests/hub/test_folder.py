"""A saved recommender is whole or absent, and opens with this package and without it."""

import ast
import copy
import itertools
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
import without_package
from huggingface_hub import ModelCard
from recommenders import (
    BRAND,
    CODE,
    FACTS,
    FEATURES,
    FILES,
    ITEMS,
    RESULTS,
    assert_same_answers,
    close_to,
    contents,
    elsewhere,
    make_recommender,
    with_package,
)
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    dynamic_module_utils,
    pipeline,
)
from without_package import answers

from hf_rec import Bert4RecConfig, Bert4RecForMaskedLM, Bert4RecModel, ItemTokenizer
from hf_rec.hub import model_card, save_recommender
from hf_rec.hub.folder import check_folder
from hf_rec.model import configuration_bert4rec, modeling_bert4rec, pipeline_bert4rec
from hf_rec.model.rules import parse_rules


def set_traps(folder: Path, traps: Path) -> Path:
    """Make each code file of a folder leave a trace in `traps` if it runs; returns the folder."""
    traps.mkdir()
    for file in folder.glob("*.py"):
        trap = f"\nimport pathlib\npathlib.Path({str(traps / file.name)!r}).touch()\n"
        file.write_text(file.read_text(encoding="utf-8") + trap, encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def modules_cache(tmp_path, monkeypatch):
    """Code of a folder that runs here by mistake leaves nothing on this machine."""
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))


@pytest.fixture(scope="module")
def recommender():
    return make_recommender()


@pytest.fixture(scope="module")
def saved(recommender, tmp_path_factory) -> dict[str, Path]:
    """The folders that the three ways of saving write, and a causal model with features and rules."""
    model, tokenizer = recommender
    root = tmp_path_factory.mktemp("saved")
    model.save_pretrained(root / "model")
    tokenizer.save_pretrained(root / "model")
    card = model_card("shop", "a shop log", RESULTS, FACTS, repo=str(root / "recommender"))
    save_recommender(root / "recommender", model, tokenizer, card)
    pipeline("recommendation", model=model, tokenizer=tokenizer).save_pretrained(root / "pipeline")
    causal = make_recommender(is_decoder=True, features=FEATURES, item_features=[BRAND], use_repeat_bias=True)
    causal[0].store_items(torch.tensor([4, 6, 9]), {"brand": ["acme", "oak", "acme"]})
    causal[0].rules = parse_rules([{"rule": "at_least", "share": 0.5, "where": {"items": ["item-5", "item-9"]}}])
    save_recommender(root / "causal", *causal)
    return {way: root / way for way in ("model", "recommender", "pipeline", "causal")}


@pytest.fixture(scope="module")
def expected(saved) -> dict:
    """Answers of the recommender in this process."""
    return answers(str(saved["recommender"]))


@pytest.fixture(scope="module")
def outside(saved, tmp_path_factory) -> dict:
    """A process without the package reads the folders, runs the card's code and trains the model further."""
    root = tmp_path_factory.mktemp("outside")
    trapped = set_traps(Path(shutil.copytree(saved["model"], root / "trapped")), root / "traps")
    folders = [*saved.values(), trapped]
    train, card = ("--train", saved["recommender"], root / "trained"), ("--card", saved["recommender"])
    report = elsewhere(*train, *card, "--read", *folders, home=root / "home")
    return report | {"folder": root / "trained", "traps": root / "traps"}


@pytest.fixture(scope="module")
def outside_again(saved, outside, tmp_path_factory) -> dict:
    """Another process opens a folder without trust and then reads the folders that the first one saved."""
    root = tmp_path_factory.mktemp("again")
    trapped = set_traps(Path(shutil.copytree(saved["pipeline"], root / "trapped")), root / "traps")
    read = ("--read", outside["folder"] / "model", outside["folder"] / "pipeline")
    report = elsewhere("--refuse", trapped, *read, home=root / "home")
    return report | {"traps": root / "traps"}


# A saved folder, without this package


@pytest.mark.parametrize("way", ["model", "recommender", "pipeline", "causal"])
def test_code_in_a_folder_needs_nothing_but_torch_and_transformers(saved, way):
    more = ["generation_config.json", "rules.json"] if way == "causal" else []
    assert sorted(set(contents(saved[way])) - {"README.md"}) == sorted([*FILES, *more])
    imported = set()
    for name in CODE:
        for node in ast.walk(ast.parse((saved[way] / name).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(node.module.partition(".")[0])
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 1
                assert f"{node.module}.py" in CODE
    assert imported - sys.stdlib_module_names <= {
        "numpy",
        "torch",
        "transformers",
        "tokenizers",
        "huggingface_hub",
        "safetensors",
    }


@pytest.mark.parametrize("way", ["model", "recommender", "pipeline"])
def test_stock_transformers_gives_the_same_answers(saved, outside, expected, way):
    found = outside["read"][str(saved[way])]
    assert_same_answers(found, expected)
    assert len(found["recommended"][0]) == 5
    assert found["tokenizer"] == "transformers.tokenization_utils_tokenizers.TokenizersBackend"
    assert all(name.startswith(f"transformers_modules.{way}.") for name in found["classes"])


@pytest.fixture(scope="module")
def causal(saved, outside) -> tuple[dict, dict]:
    """Answers of the causal model without the package and with it."""
    return outside["read"][str(saved["causal"])], answers(str(saved["causal"]))


def test_stock_transformers_opens_a_causal_model_and_generates_with_it(causal):
    found, expected = causal
    assert_same_answers(found, expected)
    assert found["generated"] == expected["generated"]
    assert [name.rpartition(".")[2] for name in found["classes"][2:]] == [
        "Bert4RecForCausalLM",
        "RecommendationPipeline",
        "Bert4RecForCausalLM",
    ]
    assert all(name.startswith("transformers_modules.causal.") for name in found["classes"])


def test_features_and_requests_count_without_the_package(causal):
    found, expected = causal
    assert found["requested"] == close_to(expected["requested"])
    timed, timeless, new_user = found["requested"]
    assert timed != timeless
    assert len(new_user) == 5


def test_code_of_the_card_runs_without_the_package(recommender, outside):
    model, tokenizer = recommender
    recommend = pipeline("recommendation", model=model, tokenizer=tokenizer)
    assert [outside["card"]] == close_to([recommend(ast.literal_eval(FACTS["example"]), top_k=5)])


def test_ids_outside_are_those_of_the_item_tokenizer(recommender, outside, saved):
    """The histories hold an unknown item, names of special tokens, and more items than the input has places."""
    _, tokenizer = recommender
    pad, unk = tokenizer.pad_token_id, tokenizer.unk_token_id
    index = {item: index for index, item in enumerate(ITEMS, start=3)}
    assert outside["read"][str(saved["model"])]["input_ids"] == [
        [pad] * 4 + [index["item-3"], index["green tea"], index["[MASK]"], index["ice [PAD] set"]],
        [pad] * 4 + [unk, index["</s>"], index["été"], index["0"]],
        [index[f"item-{number}"] for number in range(4, 12)],
    ]


def test_nothing_in_a_folder_runs_unless_it_is_trusted(outside, outside_again):
    refused = outside_again["refused"]
    assert len(refused) == 8
    for way, error in refused.items():
        assert error is not None, f"{way} opened the folder"
        assert "trust_remote_code=True" in error, way
    assert outside_again["ran"] == []
    assert contents(outside_again["traps"]) == {}
    used = sorted(set(CODE) - {"pipeline_behavior.py"})  # which only a classifier needs
    assert sorted(contents(outside["traps"])) == used  # with trust, each trap springs


def test_a_model_trained_elsewhere_opens_elsewhere_and_here(outside, outside_again, expected):
    trained = torch.tensor(outside["trained"])
    assert (trained - torch.tensor(expected["logits"])).abs().max() > 0.01
    for way in ("model", "pipeline"):
        folder = outside["folder"] / way
        found = outside_again["read"][str(folder)]
        torch.testing.assert_close(torch.tensor(found["logits"]), trained, rtol=0, atol=1e-5)
        assert sorted(contents(folder)) == FILES
        assert all(name.startswith(f"transformers_modules.{way}.") for name in found["classes"])

        opened = answers(str(folder))
        assert_same_answers(opened, found)
        assert all(name.startswith("hf_rec.") for name in opened["classes"])
        assert ItemTokenizer.from_pretrained(folder)(["green tea"])["input_ids"] == [3 + ITEMS.index("green tea")]


# A saved folder, with this package


@pytest.mark.parametrize("trust", [{}, {"trust_remote_code": False}, {"trust_remote_code": True}], ids=str)
def test_the_package_opens_a_folder_with_its_own_classes(saved, expected, tmp_path, trust):
    folder = set_traps(Path(shutil.copytree(saved["recommender"], tmp_path / "model")), tmp_path / "traps")
    found = answers(str(folder), **trust)
    assert found["classes"] == [
        "hf_rec.model.configuration_bert4rec.Bert4RecConfig",
        "hf_rec.model.modeling_bert4rec.Bert4RecModel",
        "hf_rec.model.modeling_bert4rec.Bert4RecForMaskedLM",
        "hf_rec.model.pipeline_bert4rec.RecommendationPipeline",
        "hf_rec.model.modeling_bert4rec.Bert4RecForMaskedLM",
    ]
    assert found["tokenizer"] == "hf_rec.data.tokenization_items.ItemTokenizer"
    assert_same_answers(found, expected)
    assert contents(tmp_path / "traps") == {}


def test_the_answers_are_those_of_the_model_that_was_saved(recommender, expected):
    model, tokenizer = recommender
    recommend = pipeline("recommendation", model=model, tokenizer=tokenizer)
    assert recommend(without_package.HISTORIES, top_k=5) == close_to(expected["recommended"])


@pytest.fixture
def constants(monkeypatch):
    """Undo changes to the constants of the modules, so that a fault here fails no other test."""
    for module in (configuration_bert4rec, modeling_bert4rec, pipeline_bert4rec):
        for name, value in list(vars(module).items()):
            if name.isupper() and type(value) is dict:
                monkeypatch.setattr(module, name, copy.deepcopy(value))


@pytest.mark.usefixtures("constants")
def test_a_pipeline_takes_the_config_of_a_saved_model(recommender, saved, expected, tmp_path):
    """Saving leaves traces in the config of a model, and `pipeline` reads them."""
    config = copy.deepcopy(recommender[0].config)
    Bert4RecForMaskedLM(config).save_pretrained(tmp_path / "first")
    folder = set_traps(Path(shutil.copytree(saved["model"], tmp_path / "model")), tmp_path / "traps")
    for trust in ({"trust_remote_code": True}, {}):
        recommend = pipeline("recommendation", model=str(folder), config=config, **trust)
        assert type(recommend).__module__ == "hf_rec.model.pipeline_bert4rec"
        assert recommend(without_package.HISTORIES, top_k=5) == close_to(expected["recommended"])
    assert contents(tmp_path / "traps") == {}


@pytest.mark.usefixtures("constants")
def test_a_config_given_to_a_pipeline_does_not_spoil_the_next_save(recommender, saved, tmp_path):
    model, _ = recommender
    config = copy.deepcopy(model.config)
    Bert4RecForMaskedLM(config).save_pretrained(tmp_path / "first")
    pipeline("recommendation", model=str(saved["model"]), config=config, trust_remote_code=True)
    model.save_pretrained(tmp_path / "second")
    assert (tmp_path / "second" / "config.json").read_bytes() == (saved["model"] / "config.json").read_bytes()


class OwnModel(Bert4RecForMaskedLM):
    """A subclass in a user's module."""


@pytest.mark.usefixtures("constants")
def test_saving_a_subclass_does_not_spoil_the_next_save(recommender, tmp_path):
    config = recommender[0].config
    OwnModel(copy.deepcopy(config)).save_pretrained(tmp_path / "own")
    Bert4RecModel(copy.deepcopy(config)).save_pretrained(tmp_path / "base")
    auto_maps = [json.loads((tmp_path / name / "config.json").read_text())["auto_map"] for name in ("own", "base")]
    assert [auto_map["AutoModelForMaskedLM"] for auto_map in auto_maps] == [
        "test_folder.OwnModel",
        "modeling_bert4rec.Bert4RecForMaskedLM",
    ]


def test_a_config_that_is_saved_again_keeps_the_pipeline_of_its_folder(saved, tmp_path):
    folder = Path(shutil.copytree(saved["model"], tmp_path / "model"))
    before = json.loads((folder / "config.json").read_text())
    config = AutoConfig.from_pretrained(folder)
    config.hidden_dropout_prob = 0.4
    config.save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text()) == before | {"hidden_dropout_prob": 0.4}


def test_truncated_weights_do_not_load(saved, tmp_path):
    folder = Path(shutil.copytree(saved["model"], tmp_path / "model"))
    weights = (folder / "model.safetensors").read_bytes()
    for length in (0, len(weights) // 2, len(weights) - 1):
        (folder / "model.safetensors").write_bytes(weights[:length])
        for load in (AutoModelForMaskedLM.from_pretrained, lambda name: pipeline("recommendation", model=str(name))):
            with pytest.raises(SafetensorError, match="deserializing header"):
                load(folder)


def test_pipeline_refuses_the_vocabulary_of_another_catalogue(saved, tmp_path):
    folder = Path(shutil.copytree(saved["model"], tmp_path / "model"))
    ItemTokenizer.from_items(ITEMS[:-1]).save_pretrained(folder)
    with pytest.raises(ValueError, match="tokenizer has 23 tokens and the model 24"):
        pipeline("recommendation", model=str(folder))


# Saving, whole or not at all


def test_save_recommender_replaces_a_model_and_keeps_foreign_files(recommender, tmp_path):
    folder = tmp_path / "model"
    old_model, old_tokenizer = make_recommender(ITEMS[:5], seed=1)
    old_model.save_pretrained(folder, max_shard_size="5KB")  # shards, which the new weights must win over
    old_tokenizer.save_pretrained(folder)
    (folder / "notes.txt").write_text("mine")
    (folder / "checkpoint-7").mkdir()
    (folder / "checkpoint-7" / "model.safetensors").write_bytes(b"mine, too")

    model, tokenizer = recommender
    (folder / "README.md").write_text("my card")
    save_recommender(folder, model, tokenizer)
    assert (folder / "README.md").read_text() == "my card"
    save_recommender(folder, model, tokenizer, model_card("shop", "ml-1m", RESULTS, FACTS))
    assert (folder / "README.md.bak").read_text() == "my card"
    assert ModelCard.load(folder / "README.md").data.model_name == "shop"
    assert (folder / "notes.txt").read_text() == "mine"
    assert (folder / "checkpoint-7" / "model.safetensors").read_bytes() == b"mine, too"
    loaded = Bert4RecForMaskedLM.from_pretrained(folder).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in model.state_dict().items())
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize("name", [".", "new/deep/model", "model/"])
def test_save_recommender_leaves_only_its_files_behind(recommender, tmp_path, monkeypatch, name):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    save_recommender(name, *recommender)
    written = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert written == [(tmp_path / "here" / name / file).resolve() for file in FILES]


def test_save_recommender_to_a_folder_on_another_file_system(recommender, tmp_path):
    """As where the folder is a volume that is mounted in a container."""
    shared_memory = Path("/dev/shm")
    if not shared_memory.is_dir() or shared_memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system")
    other = shared_memory / f"{tmp_path.name}-{os.getpid()}"
    other.mkdir()
    try:
        (tmp_path / "model").symlink_to(other)
        for model, tokenizer in (make_recommender(ITEMS[:5], seed=1), recommender):
            save_recommender(tmp_path / "model", model, tokenizer)
            assert sorted(contents(other)) == FILES
            assert Bert4RecForMaskedLM.from_pretrained(other).config.vocab_size == len(tokenizer)
    finally:
        shutil.rmtree(other)


@pytest.mark.parametrize("existing", [True, False], ids=["old model", "new folder"])
def test_an_error_before_anything_is_moved_leaves_all_as_it_was(saved, tmp_path, monkeypatch, existing):
    folder = tmp_path / "model"
    if existing:
        shutil.copytree(saved["recommender"], folder)

    def no_space(*_, **__):
        raise OSError(28, "No space left on device")

    model, tokenizer = make_recommender(ITEMS[:5], seed=1)
    monkeypatch.setattr(type(tokenizer), "save_pretrained", no_space)
    with pytest.raises(OSError, match="No space left"):
        save_recommender(folder, model, tokenizer)
    assert list(tmp_path.iterdir()) == ([folder] if existing else [])
    if existing:
        assert contents(folder) == contents(saved["recommender"])


def test_an_error_while_files_are_moved_leaves_no_model_and_can_be_repaired(saved, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(saved["recommender"], tmp_path / "model"))
    model, tokenizer = make_recommender(ITEMS[:5], seed=1)
    replace, moved = os.replace, []

    def replace_three(source, target):
        if len(moved) == 3:
            raise OSError(5, "Input/output error")
        moved.append(target)
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace_three)
        with pytest.raises(OSError, match="Input/output error"):
            save_recommender(folder, model, tokenizer)
    assert "config.json" not in contents(folder)
    assert list(tmp_path.iterdir()) == [folder]
    with pytest.raises((OSError, ValueError)):
        AutoModelForMaskedLM.from_pretrained(folder)

    save_recommender(folder, model, tokenizer)
    recommend = pipeline("recommendation", model=model, tokenizer=tokenizer)
    assert answers(str(folder))["recommended"] == close_to(recommend(without_package.HISTORIES, top_k=5))


def default_recommender(seed: int):
    """A model of the sizes of a default config, whose weights alone might pass for a model, and its tokenizer."""
    config = Bert4RecConfig(num_attention_heads=4)
    torch.manual_seed(seed)
    return Bert4RecForMaskedLM(config).eval(), ItemTokenizer.from_items(
        [f"{seed}-{number}" for number in range(config.num_items)], max_length=config.max_position_embeddings
    )


def save_and_die(old: str, root: str) -> None:
    """Save a recommender over copies of `old`, killed at one point after another until a save gets through."""
    recommender = default_recommender(seed=1)
    for point in itertools.count():
        folder = Path(shutil.copytree(old, Path(root) / f"{point:02}" / "model"))
        child = os.fork()
        if child == 0:
            steps = itertools.count()
            ItemTokenizer.save_pretrained = deadly(ItemTokenizer.save_pretrained, steps, point)
            os.replace = deadly(os.replace, steps, point)
            save_recommender(folder, *recommender)
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != -signal.SIGKILL:
            return


def deadly(function, steps, point: int):
    """The function, but the call that is number `point` of all `steps` kills the process before it."""

    def kill_or_call(*args, **kwargs):
        if next(steps) == point:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    return kill_or_call


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_killed_save_leaves_the_old_model_or_none(tmp_path):
    save_recommender(tmp_path / "old", *default_recommender(seed=0))
    save_recommender(tmp_path / "new", *default_recommender(seed=1))
    with_package(save_and_die, tmp_path / "old", tmp_path / "killed", home=tmp_path / "home")
    old, new = contents(tmp_path / "old"), contents(tmp_path / "new")
    found = []
    for run in sorted((tmp_path / "killed").iterdir()):
        files = contents(run / "model")
        found.append("old" if files == old else "new" if files == new else "neither")
        if found[-1] == "neither":
            for load in (
                Bert4RecForMaskedLM.from_pretrained,
                AutoModelForMaskedLM.from_pretrained,
                lambda name: pipeline("recommendation", model=str(name)),
            ):
                with pytest.raises((OSError, ValueError)):
                    load(run / "model")
            save_recommender(run / "model", *default_recommender(seed=1))
            assert contents(run / "model") == new
    assert found == ["old", *["neither"] * len(FILES), "new"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (BertConfig().to_json_string(), "holds a model of type 'bert'"),
        ("{}", "holds a model of type None"),
        ("[]", "is not the configuration of a model"),
        ("half a fi", "is not the configuration of a model"),
    ],
    ids=["bert", "no type", "a list", "no JSON"],
)
def test_save_recommender_refuses_a_folder_of_something_else(recommender, tmp_path, config, message):
    (tmp_path / "config.json").write_text(config)
    (tmp_path / "model.safetensors").write_bytes(b"precious")
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=message):
        save_recommender(tmp_path, *recommender)
    assert contents(tmp_path) == before


def test_save_recommender_refuses_a_file(recommender, tmp_path):
    (tmp_path / "model").write_text("precious")
    with pytest.raises(ValueError, match="model is a file; a model is saved to a folder"):
        save_recommender(tmp_path / "model", *recommender)
    assert contents(tmp_path) == {"model": b"precious"}


def test_save_recommender_refuses_the_tokenizer_of_another_catalogue(recommender, saved, tmp_path):
    model, _ = recommender
    folder = Path(shutil.copytree(saved["model"], tmp_path / "model"))
    with pytest.raises(ValueError, match="the tokenizer has 23 tokens, the model 24"):
        save_recommender(folder, model, ItemTokenizer.from_items(ITEMS[1:]))
    with pytest.raises(ValueError, match="the tokenizer has 23 tokens, the model 24"):
        save_recommender(tmp_path / "new", model, ItemTokenizer.from_items(ITEMS[1:]))
    assert list(tmp_path.iterdir()) == [folder]
    assert contents(folder) == contents(saved["model"])


def test_check_folder_takes_what_can_be_saved_to(saved, tmp_path):
    check_folder(tmp_path / "missing", "bert4rec")
    check_folder(tmp_path, "bert4rec")
    check_folder(saved["model"], "bert4rec")
    with pytest.raises(ValueError, match="holds a model of type 'bert4rec'"):
        check_folder(saved["model"], "bert")


# A folder that somebody changed


def change_json(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def drop_token(content: dict) -> None:
    del content["model"]["vocab"]["item-3"]


def repeat_id(content: dict) -> None:
    content["model"]["vocab"]["item-3"] = content["model"]["vocab"]["item-4"]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("tokenizer.json", drop_token, "23 tokens .*24|ids are not 0 to"),
        ("tokenizer.json", repeat_id, "ids are not 0 to"),
        ("config.json", lambda content: content.update(mask_token_id=9), "mask_token_id is 2 .* 9"),
        ("config.json", lambda content: content.update(pad_token_id=5), "pad_token_id is 0 .* 5"),
    ],
)
def test_a_vocabulary_that_does_not_fit_is_an_error_that_names_it(saved, tmp_path, name, change, message):
    folder = shutil.copytree(saved["recommender"], tmp_path / "changed")
    change_json(folder / name, change)
    with pytest.raises(ValueError, match=message):
        pipeline("recommendation", model=str(folder))


@pytest.mark.parametrize("missing", ["model.layers.0.mlp.up.weight", "scores.bias"])
def test_missing_weights_are_an_error_that_names_them(saved, tmp_path, missing):
    folder = shutil.copytree(saved["recommender"], tmp_path / "changed")
    weights = load_file(folder / "model.safetensors")
    del weights[missing]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    for load in (Bert4RecForMaskedLM.from_pretrained, lambda path: pipeline("recommendation", model=str(path))):
        with pytest.raises(ValueError, match=missing):
            load(folder)


def test_rules_of_generation_hold_without_those_of_the_folder(saved, tmp_path):
    folder = shutil.copytree(saved["causal"], tmp_path / "changed")
    (folder / "generation_config.json").write_text("{}")
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.scores.bias[:3] = 1e4  # the special tokens would be best
    found = model.generate(torch.tensor([[5, 6]]), max_new_tokens=4)[0, 2:].tolist()
    assert not {0, 1, 2, 5, 6}.intersection(found) and len(set(found)) == 4
