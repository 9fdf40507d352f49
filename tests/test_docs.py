"""The documentation: its Python blocks run, its links exist, its commands are valid, and it covers the options."""

import json
import re
import shlex
import shutil
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import train_with_trainer
from transformers import HfArgumentParser, TrainingArguments

from hf_rec import Bert4RecConfig
from hf_rec.cli.add_items import AddItemsArguments
from hf_rec.cli.arguments import LogArguments, RuleArguments
from hf_rec.cli.compress import CompressArguments, CompressDataArguments
from hf_rec.cli.embed import EmbedArguments
from hf_rec.cli.evaluate import EvaluationArguments
from hf_rec.cli.explain import ExplainArguments, TitleArguments
from hf_rec.cli.export import ExportArguments
from hf_rec.cli.federated import ROLES
from hf_rec.cli.main import COMMANDS
from hf_rec.cli.map_items import MapArguments
from hf_rec.cli.prepare import PrepareArguments, name_log
from hf_rec.cli.recommend import RecommendArguments
from hf_rec.cli.serve import ServeArguments, name_model
from hf_rec.cli.similar import SimilarArguments
from hf_rec.cli.space import SpaceArguments
from hf_rec.cli.task import TaskArguments
from hf_rec.cli.train import DataArguments, ModelArguments
from hf_rec.cli.update import UpdateArguments
from hf_rec.data import build_sequences, leave_one_out
from hf_rec.data.demo_log import shop_log
from hf_rec.model.features import KINDS
from hf_rec.serving.settings import ServiceSettings
from hf_rec.training import RecommendationTrainingArguments, arguments, train_recommender
from hf_rec.training.recipes import RECIPES, SHORT

REPOSITORY = Path(__file__).parents[1]
DOCS = REPOSITORY / "docs"
PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md"))}
NOTEBOOK = json.loads((DOCS / "quickstart.ipynb").read_text(encoding="utf-8"))
PACKAGES = [
    "hf_rec",
    *(
        f"hf_rec.{room}"
        for room in (
            *("compression", "data", "evaluation", "explanation", "federated", "hub", "prepare", "serving", "space"),
            "training",
        )
    ),
]
OPTIONS = {
    "train": (DataArguments, ModelArguments, TaskArguments, RecommendationTrainingArguments),
    "prepare": PrepareArguments,
    "update": (UpdateArguments, LogArguments, ModelArguments, RecommendationTrainingArguments),
    "evaluate": (EvaluationArguments, DataArguments, RuleArguments),
    "recommend": (RecommendArguments, RuleArguments),
    "similar": SimilarArguments,
    "explain": (ExplainArguments, TitleArguments),
    "map-items": (MapArguments, TitleArguments),
    "export": ExportArguments,
    "compress": (CompressArguments, CompressDataArguments, RecommendationTrainingArguments),
    "embed": EmbedArguments,
    "space": SpaceArguments,
    "serve": (ServeArguments, ServiceSettings),
    "add-items": AddItemsArguments,
    **{f"federated {role}": parts for role, parts in ROLES.items()},
}


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands() -> list[tuple[str, str]]:
    """Every command line of the pages, with the page."""
    return [
        (page, re.sub(r" > \S+$", "", line.split("  #")[0]))
        for page, text in PAGES.items()
        for block in blocks(text, "bash")
        for line in block.replace("\\\n", " ").splitlines()
    ]


@pytest.fixture
def few_steps(monkeypatch):
    """Trainings of the recipe's number of steps stop after two."""
    complete = arguments.complete_arguments

    def complete_few(*args):
        completed = complete(*args)
        completed.max_steps = min(completed.max_steps, 2)
        return completed

    monkeypatch.setattr(import_module("hf_rec.training.fit"), "complete_arguments", complete_few)


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    """A folder with the files that the pages name."""
    folder = tmp_path_factory.mktemp("shop")
    log, items = shop_log(num_users=60)
    pa.parquet.write_table(log, folder / "purchases.parquet")
    pa.parquet.write_table(items, folder / "items.parquet")
    atomic = log.rename_columns(["user_id:token", "item_id:token", "timestamp:float"])
    pa.csv.write_csv(atomic, folder / "shop.inter", pa.csv.WriteOptions(delimiter="\t"))
    sequences = build_sequences(log)
    sessions = sequences.rename_columns({"user_id": "session_id", "item_ids": "item_id-list"})
    sessions.remove_columns("timestamps").to_parquet(folder / "sessions.parquet")
    args = RecommendationTrainingArguments(
        str(folder / "shop-recommender"), max_steps=2, per_device_train_batch_size=4, disable_tqdm=True
    )
    train_recommender(leave_one_out(sequences), args, config={"is_decoder": True, "hidden_size": 16}, max_length=20)
    return folder


@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if blocks(text, "python")])
def test_the_python_blocks_of_a_page_run(page, shop, tmp_path, monkeypatch, few_steps):  # noqa: ARG001
    monkeypatch.chdir(shutil.copytree(shop, tmp_path / "shop"))
    monkeypatch.setattr("hf_rec.hub.push_recommender", lambda *_: None)
    names = {}
    with patch.dict(KINDS):
        for number, block in enumerate(blocks(PAGES[page], "python")):
            exec(compile(block, f"{page}, block {number}", "exec"), names)


def test_the_notebook_runs(tmp_path, monkeypatch, few_steps):  # noqa: ARG001
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    names = {}
    for cell in NOTEBOOK["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert list(names["results"]) == ["popularity", "last-item Markov", "causal model"]


def test_the_notebook_is_stored_without_outputs():
    assert not [cell for cell in NOTEBOOK["cells"] if cell.get("outputs") or cell.get("execution_count")]


@pytest.mark.parametrize(("page", "line"), commands())
def test_the_commands_of_the_pages_are_valid(page, line, monkeypatch, tmp_path):
    program, *arguments = shlex.split(line)
    if program in ("torchrun", "accelerate"):  # whose own options are before the script or `-m module`
        place = next(n for n, word in enumerate(arguments) if word == "hf_rec.cli.main" or word.endswith(".py"))
        module = arguments[place] == "hf_rec.cli.main"
        program, arguments = ("hf-rec" if module else "python"), arguments[place + module :]
    if program == "hf-rec":
        command, *arguments = arguments
        assert command in COMMANDS
        if command == "federated":
            command, *arguments = (f"federated {arguments[0]}", *arguments[1:])
        if command in OPTIONS:
            monkeypatch.chdir(tmp_path)
            named = {"serve": name_model, "prepare": name_log}.get(command)
            arguments = named(arguments) if named else arguments
            HfArgumentParser(OPTIONS[command]).parse_args_into_dataclasses(arguments)
        else:
            assert not arguments
    elif program == "python" and arguments[0] == "scripts/train_with_trainer.py":
        HfArgumentParser((train_with_trainer.Options, TrainingArguments)).parse_args_into_dataclasses(arguments[1:])
    elif program == "python":
        script, *arguments = arguments
        known = (REPOSITORY / script).read_text(encoding="utf-8") + " ".join(
            f'"--{field.name}"'
            for group in (*OPTIONS["train"], *OPTIONS["federated simulate"])
            for field in fields(group)
        )
        assert not [flag for flag in arguments if flag.startswith("--") and f'"{flag}"' not in known], page
    else:
        assert program in ("cp", "pip", "make", "spark-submit")


@pytest.mark.parametrize("page", PAGES)
def test_the_links_of_a_page_exist(page):
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", PAGES[page]):
        path = DOCS / (target or page)
        assert path.is_file(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [
                re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings
            ]


def test_every_page_is_in_the_navigation():
    navigation = set(re.findall(r"[\w-]+\.md", (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8")))
    assert navigation == {*PAGES, "quickstart.md"}


def test_the_api_page_has_all_that_the_packages_export():
    documented = re.findall(r"^::: (\S+)$", PAGES["api.md"], re.MULTILINE)
    for name in PACKAGES:
        package = import_module(name)
        exported = [getattr(package, name) for name in package.__all__]
        homes = {item.__module__ for item in exported if hasattr(item, "__module__")}
        assert sorted(homes - {*documented}) == []


def test_the_glossary_has_every_field_of_the_configuration():
    terms = re.findall(r"^\| (.+?) \|", PAGES["glossary.md"], re.MULTILINE)[2:]
    assert {f"`{name}`" for name in Bert4RecConfig.__annotations__} <= set(terms)
    keys = [re.sub(r"[^a-z0-9]", "", term.lower()) for term in terms]
    assert keys == sorted(keys)


def test_the_page_of_features_has_every_kind():
    assert [kind for kind in KINDS if f"| `{kind}` |" not in PAGES["features.md"]] == []


def test_the_page_of_recipes_has_the_values_of_the_recipes():
    for name, recipe in RECIPES.items():
        row = next(line for line in PAGES["recipes.md"].splitlines() if line.startswith(f"| `{name}` |"))
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[1:] == [
            "`next-item`" if name.startswith("causal") else "`cloze`",
            f"up to {SHORT}" if name.endswith("short") else f"more than {SHORT}",
            *map(str, recipe[:5]),
            "yes" if recipe.use_repeat_bias else "with `--include_seen`",
            str(recipe.moving_average or "no"),
        ]


def test_every_metric_on_the_pages_is_in_the_results_of_the_repository():
    measured = (REPOSITORY / "model_cards" / "results.md").read_text(encoding="utf-8")
    quoted = {number for text in PAGES.values() for number in re.findall(r"\b0\.\d{4}\b", text)}
    assert quoted
    assert [number for number in sorted(quoted) if number not in measured] == []


def test_the_files_behind_the_promises_exist():
    named = re.findall(r"`((?:tests|scripts)/[\w/]+\.py)`", PAGES["promises.md"])
    assert len(named) > 30 and all((REPOSITORY / name).is_file() for name in named)
