"""A recommender is saved whole or not at all, and opens anywhere: with this package, without it, from the Hub."""

import ast
import copy
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import without_package
from fake_hub import TOKEN, fake_hub
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    dynamic_module_utils,
    pipeline,
)
from without_package import answers

from hf_rec import (
    Bert4RecConfig,
    Bert4RecForMaskedLM,
    Bert4RecModel,
    ItemTokenizer,
    configuration_bert4rec,
    modeling_bert4rec,
    pipeline_bert4rec,
)
from hf_rec.hub import BERT4REC, CARD_METRICS, check_folder, model_card, push_recommender, save_recommender

STRANGE = ["green tea", "[MASK]", "ice [PAD] set", "été", "</s>", "0", "a\"b'c{x}"]
ITEMS = [*(f"item-{number}" for number in range(14)), *STRANGE]
CODE = [
    "configuration_bert4rec.py",
    "loss_bert4rec.py",
    "modeling_bert4rec.py",
    "pipeline_bert4rec.py",
    "ranking_bert4rec.py",
]
FILES = sorted([*CODE, "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])

NAMES = ("popularity", "last-item Markov", "shop")
RESULTS = {
    name: {metric: row + column / 7 for column, metric in enumerate(CARD_METRICS)} for row, name in enumerate(NAMES)
}
FACTS = {
    "architecture": "a BERT4Rec encoder (4,321 parameters)",
    "auto_class": "AutoModelForMaskedLM",
    "citation": BERT4REC,
    "num_items": 1_234,
    "num_users": 5_678,
    "num_interactions": 91_011,
    "example": str(["green tea", "a\"b'c{x}", "item-3"]),
    "protocol": "Split: leave-one-out. Full ranking over the whole catalogue, seen items excluded.",
    "command": "python scripts/train.py --seed 17",
    "seed": 17,
    "steps": 2_345,
    "seconds": 67.8,
    "machine": "2 CPU cores",
    "versions": "torch 2.13.0",
}


def make_recommender(items=ITEMS, seed=0, **config):
    """A random model with scores far apart, small unless `config` says otherwise, and its tokenizer."""
    tokenizer = ItemTokenizer.from_items(items, max_length=8)
    torch.manual_seed(seed)
    small = {"hidden_size": 16, "intermediate_size": 32, "max_position_embeddings": 8, "initializer_range": 0.5}
    config = Bert4RecConfig(vocab_size=len(tokenizer), **(config or small))
    return modeling_bert4rec.recommender_class(config)(config).eval(), tokenizer


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def set_traps(folder: Path, traps: Path) -> Path:
    """Make each code file of a folder leave a trace in `traps` if it runs; returns the folder."""
    traps.mkdir()
    for file in folder.glob("*.py"):
        trap = f"\nimport pathlib\npathlib.Path({str(traps / file.name)!r}).touch()\n"
        file.write_text(file.read_text(encoding="utf-8") + trap, encoding="utf-8")
    return folder


def assert_same_answers(found: dict, expected: dict) -> None:
    assert found["input_ids"] == expected["input_ids"]
    for key in ("states", "logits"):
        torch.testing.assert_close(torch.tensor(found[key]), torch.tensor(expected[key]), rtol=0, atol=1e-5)
    assert found["recommended"] == close_to(expected["recommended"])


def close_to(recommended: list[list[dict]]) -> list[list[dict]]:
    """Equals lists of the same items with the same scores, up to 1e-5."""
    return [[item | {"score": pytest.approx(item["score"], abs=1e-5)} for item in row] for row in recommended]


def run_python(*arguments, home: Path, **environment) -> subprocess.CompletedProcess:
    """Run Python in a process of its own, without this machine's Hugging Face settings, caches and proxies."""
    left_out = re.compile("(HF|HUGGING|TRANSFORMERS|.*_PROXY$)", re.IGNORECASE)
    inherited = {name: value for name, value in os.environ.items() if not left_out.match(name)}
    settings = {
        "HF_HOME": str(home),
        "HF_MODULES_CACHE": str(home / "modules"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(map(str, (Path(__file__).parent, Path(modeling_bert4rec.__file__).parents[1]))),
    }
    home.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=inherited | settings | environment,
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return done


def elsewhere(*options, home: Path, **environment) -> dict:
    """The report of `without_package.py`."""
    environment = environment or {"HF_HUB_OFFLINE": "1"}
    done = run_python(without_package.__file__, *options, home=home, **environment)
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["package"] == []
    return report


def here(function, *arguments, home: Path, **environment) -> str:
    """Output of a function of this file in a process of its own, with the package."""
    call = f"import sys, test_hub; test_hub.{function.__name__}(*sys.argv[1:])"
    return run_python("-c", call, *arguments, home=home, **environment).stdout


@pytest.fixture(autouse=True)
def modules_cache(tmp_path, monkeypatch):
    """Code that runs here in spite of all leaves nothing behind on this machine."""
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))


@pytest.fixture(scope="module")
def recommender():
    return make_recommender()


@pytest.fixture(scope="module")
def saved(recommender, tmp_path_factory) -> dict[str, Path]:
    """The folders that the three ways of saving write."""
    model, tokenizer = recommender
    root = tmp_path_factory.mktemp("saved")
    model.save_pretrained(root / "model")
    tokenizer.save_pretrained(root / "model")
    card = model_card("shop", "a shop log", RESULTS, FACTS, repo=str(root / "recommender"))
    save_recommender(root / "recommender", model, tokenizer, card)
    pipeline("recommendation", model=model, tokenizer=tokenizer).save_pretrained(root / "pipeline")
    return {way: root / way for way in ("model", "recommender", "pipeline")}


@pytest.fixture(scope="module")
def expected(saved) -> dict:
    """What the recommender answers in this process."""
    return answers(str(saved["recommender"]))


@pytest.fixture(scope="module")
def outside(saved, tmp_path_factory) -> dict:
    """A process without the package reads the three folders, follows the card and trains the model further."""
    root = tmp_path_factory.mktemp("outside")
    trapped = set_traps(Path(shutil.copytree(saved["model"], root / "trapped")), root / "traps")
    folders = [*saved.values(), trapped]
    train, card = ("--train", saved["recommender"], root / "trained"), ("--card", saved["recommender"])
    report = elsewhere(*train, *card, "--read", *folders, home=root / "home")
    return report | {"folder": root / "trained", "traps": root / "traps"}


@pytest.fixture(scope="module")
def outside_again(saved, outside, tmp_path_factory) -> dict:
    """Another one opens a folder without trust, and then reads what the first one saved."""
    root = tmp_path_factory.mktemp("again")
    trapped = set_traps(Path(shutil.copytree(saved["pipeline"], root / "trapped")), root / "traps")
    read = ("--read", outside["folder"] / "model", outside["folder"] / "pipeline")
    report = elsewhere("--refuse", trapped, *read, home=root / "home")
    return report | {"traps": root / "traps"}


# A saved folder, without this package


@pytest.mark.parametrize("way", ["model", "recommender", "pipeline"])
def test_code_in_a_folder_needs_nothing_but_torch_and_transformers(saved, way):
    assert sorted(set(contents(saved[way])) - {"README.md"}) == FILES
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
    assert imported - sys.stdlib_module_names <= {"torch", "transformers", "tokenizers", "huggingface_hub"}


@pytest.mark.parametrize("way", ["model", "recommender", "pipeline"])
def test_stock_transformers_gives_the_same_answers(saved, outside, expected, way):
    found = outside["read"][str(saved[way])]
    assert_same_answers(found, expected)
    assert len(found["recommended"][0]) == 5
    assert found["tokenizer"] == "transformers.tokenization_utils_tokenizers.TokenizersBackend"
    assert all(name.startswith(f"transformers_modules.{way}.") for name in found["classes"])


def test_stock_transformers_opens_a_causal_model_and_generates_with_it(tmp_path):
    model, tokenizer = make_recommender(
        hidden_size=16, max_position_embeddings=8, initializer_range=0.5, is_decoder=True
    )
    save_recommender(tmp_path / "causal", model, tokenizer)
    found = elsewhere("--read", tmp_path / "causal", home=tmp_path / "home")["read"][str(tmp_path / "causal")]
    expected = answers(str(tmp_path / "causal"))
    assert_same_answers(found, expected)
    assert found["generated"] == expected["generated"]
    assert [name.rpartition(".")[2] for name in found["classes"][2:]] == [
        "Bert4RecForCausalLM",
        "RecommendationPipeline",
        "Bert4RecForCausalLM",
    ]


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
    assert sorted(contents(outside["traps"])) == CODE  # with trust, each trap springs


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
        "hf_rec.configuration_bert4rec.Bert4RecConfig",
        "hf_rec.modeling_bert4rec.Bert4RecModel",
        "hf_rec.modeling_bert4rec.Bert4RecForMaskedLM",
        "hf_rec.pipeline_bert4rec.RecommendationPipeline",
        "hf_rec.modeling_bert4rec.Bert4RecForMaskedLM",
    ]
    assert found["tokenizer"] == "hf_rec.tokenization_items.ItemTokenizer"
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
        assert type(recommend).__module__ == "hf_rec.pipeline_bert4rec"
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
        "test_hub.OwnModel",
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
    items = [f"{seed}-{number}" for number in range(Bert4RecConfig().vocab_size - 3)]
    return make_recommender(items, seed, num_attention_heads=4)


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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_killed_save_leaves_the_old_model_or_none(tmp_path):
    save_recommender(tmp_path / "old", *default_recommender(seed=0))
    save_recommender(tmp_path / "new", *default_recommender(seed=1))
    here(save_and_die, tmp_path / "old", tmp_path / "killed", home=tmp_path / "home")
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


# The model card


@pytest.mark.parametrize("dataset", ["ml-1m", 'a shop\'s log: "2024" #1'])
def test_metadata_of_the_card_are_the_metrics(tmp_path, dataset):
    model_card("shop", dataset, RESULTS, FACTS).save(tmp_path / "README.md")
    data = ModelCard.load(tmp_path / "README.md").data
    assert data.library_name == "transformers"
    assert data.license == "apache-2.0"
    assert {"recommendation", "bert4rec"} <= set(data.tags)

    name, results = model_index_to_eval_results(data.to_dict()["model-index"])
    assert name == "shop"
    assert {result.metric_type: result.metric_value for result in results} == {
        metric: round(value, 5) for metric, value in RESULTS["shop"].items()
    }
    assert {(result.dataset_name, result.dataset_split) for result in results} == {(dataset, "test")}


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


def test_code_of_the_card_runs_without_the_package(recommender, outside):
    model, tokenizer = recommender
    recommend = pipeline("recommendation", model=model, tokenizer=tokenizer)
    assert [outside["card"]] == close_to([recommend(ast.literal_eval(FACTS["example"]), top_k=5)])


# The Hub


def push_and_read(folder: str, token: str) -> None:
    """Push a folder and its parts, and print what the repositories answer."""
    push_recommender(folder, "user/secret", private=True, token=token)
    commit = push_recommender(folder, "shop", token=token)
    Bert4RecForMaskedLM.from_pretrained(folder).push_to_hub("user/parts", token=token)
    ItemTokenizer.from_pretrained(folder).push_to_hub("user/parts", token=token)
    Bert4RecForMaskedLM.from_pretrained("user/shop").push_to_hub("user/shop", token=token)
    read = {
        "user/secret": answers("user/secret", token=token),
        "user/shop": answers("user/shop"),
        "user/parts": answers("user/parts"),
    }
    print(json.dumps({"commit": commit.oid, "read": read}))


@pytest.fixture(scope="module")
def pushed(saved, tmp_path_factory):
    """A hub, and the reports of a process with the package, which pushes and reads, and of one without it."""
    root = tmp_path_factory.mktemp("hub")
    folder = Path(shutil.copytree(saved["recommender"], root / "folder"))
    (folder / "training_curve.png").write_bytes(b"a picture")
    (folder / ".cache").mkdir()
    (folder / "checkpoint-12").mkdir()
    for name in ("training_args.bin", "optimizer.pt", "trainer_state.json", ".cache/x", "checkpoint-12/rng_state.pth"):
        (folder / name).write_bytes(b"state of the training")
    shutil.copy(folder / "model.safetensors", folder / "checkpoint-12")
    with fake_hub() as hub:
        lines = here(push_and_read, folder, TOKEN, home=root / "home", HF_ENDPOINT=hub.url).splitlines()
        names = ("--read", "user/shop", "user/parts")
        options = ("--refuse", "user/shop", "--train", "user/parts", root / "trained", *names)
        outsider = elsewhere(*options, home=root / "other", HF_ENDPOINT=hub.url)
        inside = json.loads(lines[-1])
        yield {"hub": hub, "inside": inside, "outside": outsider, "folder": folder, "trained": root / "trained"}


def test_push_uploads_the_model_and_its_card_and_no_training_state(pushed):
    hub, folder = pushed["hub"], pushed["folder"]
    (_, _, empty), (commit_id, message, files), *_ = hub.commits["user/shop"]
    assert empty == {}
    assert message == "Upload recommender"
    assert commit_id == pushed["inside"]["commit"]
    assert sorted(files) == sorted([*FILES, "README.md", "training_curve.png"])
    assert all(content == (folder / name).read_bytes() for name, content in files.items())


def test_push_makes_a_private_repository_where_asked(pushed):
    assert pushed["hub"].private == {"user/secret": True, "user/shop": False, "user/parts": False}


def test_push_to_hub_of_model_and_tokenizer_uploads_the_same_folder(pushed):
    _, _, files = pushed["hub"].commits["user/parts"][-1]
    assert sorted(files) == sorted([*FILES, "README.md"])
    for name in set(FILES) - {"tokenizer_config.json"}:  # Transformers notes there where a tokenizer came from
        assert files[name] == (pushed["folder"] / name).read_bytes(), name
    assert json.loads(files["tokenizer_config.json"])["tokenizer_class"] == "ItemTokenizer"


def test_push_to_hub_keeps_the_card_of_the_recommender(pushed):
    commits = pushed["hub"].commits["user/shop"]
    assert len(commits) == 3
    before, after = (ModelCard(files["README.md"].decode()) for _, _, files in commits[1:])
    assert after.text == before.text
    assert after.data.to_dict() == before.data.to_dict()


@pytest.mark.parametrize("repository", ["user/secret", "user/shop", "user/parts"])
def test_the_package_opens_a_repository_with_its_own_classes(pushed, expected, repository):
    found = pushed["inside"]["read"][repository]
    assert_same_answers(found, expected)
    assert all(name.startswith("hf_rec.") for name in [*found["classes"], found["tokenizer"]])


@pytest.mark.parametrize("repository", ["user/shop", "user/parts"])
def test_stock_transformers_opens_a_repository_with_trust_alone(pushed, expected, repository):
    found = pushed["outside"]["read"][repository]
    assert_same_answers(found, expected)
    assert all(name.startswith("transformers_modules.user.") for name in found["classes"])
    assert all("trust_remote_code=True" in (error or "") for error in pushed["outside"]["refused"].values())
    assert pushed["outside"]["ran"] == []


@pytest.mark.parametrize("way", ["model", "pipeline"])
def test_a_model_trained_from_the_hub_is_saved_with_its_code(pushed, way):
    folder = pushed["trained"] / way
    assert sorted(contents(folder)) == FILES
    assert all((folder / name).read_bytes() == (pushed["folder"] / name).read_bytes() for name in CODE)
    config = (folder / "config.json").read_text()
    assert "--" not in config  # the code is looked for in this folder, not in the repository that it came from
    trained = torch.tensor(pushed["outside"]["trained"])
    torch.testing.assert_close(torch.tensor(answers(str(folder))["logits"]), trained, rtol=0, atol=1e-5)


def test_push_refuses_a_folder_without_a_model(tmp_path):
    with pytest.raises(ValueError, match=r"holds no model \(no config\.json\); save one first"):
        push_recommender(tmp_path, "user/shop", token=TOKEN)
