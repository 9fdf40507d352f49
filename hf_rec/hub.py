"""Saving a recommender as one folder, with its model card, and pushing it to the Hugging Face Hub."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import CommitInfo, EvalResult, HfApi, ModelCard, ModelCardData
from transformers import PreTrainedModel, PreTrainedTokenizerBase

CARD_METRICS = ("ndcg@10", "hr@10", "mrr", "coverage@10", "overlap@10", "novelty@10", "popularity@10")

CARD = """---
{metadata}
---

# {name}

A sequential recommender that reads a user's history of items and ranks what may follow: {architecture}, trained with
`hf_rec` on **{dataset}** ({num_items:,} items, {num_users:,} users, {num_interactions:,} interactions for training).

## Use

```python
from transformers import pipeline

recommend = pipeline("recommendation", model="{repo}", trust_remote_code=True)
recommend({example}, top_k=5)  # [{{"item_id": ..., "score": ...}}, ...]
```

With `hf_rec` installed and imported, `trust_remote_code` is not needed. The weights also open with
`{auto_class}` and the vocabulary of item ids with `AutoTokenizer`.

## Results

{protocol}

{table}

NDCG and HR count the held-out item among the first 10; MRR is over the whole ranking; coverage is the share of the
catalogue that is recommended to anyone; overlap is the chance that an item of one user's list stands in another
user's; novelty is the mean of -log2 of the recommended items' share of the training interactions; popularity is their
mean number of training interactions.

## Training

```
{command}
```

Seed {seed}; {steps:,} steps in {seconds:,.0f} s on {machine}; {versions}.

## Limits

The model knows the {num_items:,} items of its catalogue; other ids are skipped, and items that appeared after
training are never recommended. It learned from the behaviour of the users of this data set, repeats its biases, and
leans towards what was popular there. Offline ranking metrics do not tell what users would do with the recommendations.

## Citation

{citation}
"""

BERT4REC = """```bibtex
@inproceedings{sun2019bert4rec,
  title={{BERT4Rec}: Sequential Recommendation with Bidirectional Encoder Representations from Transformer},
  author={Sun, Fei and Liu, Jun and Wu, Jian and Pei, Changhua and Lin, Xiao and Ou, Wenwu and Jiang, Peng},
  booktitle={Proceedings of the 28th ACM International Conference on Information and Knowledge Management},
  year={2019}
}
```"""
SASREC = """```bibtex
@inproceedings{kang2018sasrec,
  title={Self-Attentive Sequential Recommendation},
  author={Kang, Wang-Cheng and McAuley, Julian},
  booktitle={IEEE International Conference on Data Mining},
  year={2018}
}
```"""


def results_table(results: Mapping[str, Mapping[str, float]], metrics: tuple[str, ...] = CARD_METRICS) -> str:
    """A Markdown table with a row for each recommender and a column for each metric."""
    rows = [["", *metrics]]
    rows += [[name, *(f"{values[metric]:.4f}" for metric in metrics)] for name, values in results.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def model_card(
    name: str,
    dataset: str,
    results: Mapping[str, Mapping[str, float]],
    facts: Mapping[str, object],
    repo: str | None = None,
) -> ModelCard:
    """The card of a trained recommender.

    Args:
        name: Title of the model, and its key in `results`.
        dataset: Name of the data.
        results: Test metrics, by name, of the model and of the baselines.
        facts: The other fields of the card's template.
        repo: Where the model can be loaded from; its title if None.
    """
    metadata = ModelCardData(
        library_name="transformers",
        license="apache-2.0",
        tags=["recommendation", "sequential-recommendation", "bert4rec", "hf_rec"],
        metrics=["ndcg", "hit_rate", "mrr"],
        model_name=name,
        eval_results=[
            EvalResult(
                task_type="recommendation",
                task_name="Sequential recommendation",
                dataset_type=dataset,
                dataset_name=dataset,
                dataset_split="test",
                metric_type=metric,
                metric_value=round(results[name][metric], 5),
            )
            for metric in CARD_METRICS
        ],
    )
    return ModelCard(
        CARD.format(
            metadata=metadata.to_yaml(),
            name=name,
            dataset=dataset,
            repo=repo or name,
            table=results_table(results),
            **facts,
        ),
        ignore_metadata_errors=False,
    )


def save_recommender(
    folder: str | Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    card: ModelCard | None = None,
) -> None:
    """Save weights, configuration, code, vocabulary and card to one folder, or leave it as it was.

    Everything is written to a hidden folder first and moved in last, the weights at the very end: a folder that was
    interrupted on the way has none and does not load. A card that is replaced is kept as `README.md.bak`.

    Raises:
        ValueError: for a folder that holds another kind of model, or a tokenizer of another vocabulary.
    """
    folder = Path(folder)
    check_folder(folder, model.config.model_type)
    if len(tokenizer) != model.config.vocab_size:
        raise ValueError(f"the tokenizer has {len(tokenizer)} tokens, the model {model.config.vocab_size}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = folder if folder.exists() else folder.parent  # on the file system of the folder, which may be a mount
    with tempfile.TemporaryDirectory(dir=beside, prefix=f".{folder.name}-") as staging:
        model.save_pretrained(staging)
        tokenizer.save_pretrained(staging)
        if card is not None:
            card.save(Path(staging) / "README.md")
        folder.mkdir(exist_ok=True)
        if card is not None and (folder / "README.md").exists():
            os.replace(folder / "README.md", folder / "README.md.bak")
        for name in ("config.json", "model.safetensors", "model.safetensors.index.json"):
            (folder / name).unlink(missing_ok=True)
        for file in sorted(Path(staging).iterdir(), key=lambda file: file.name.startswith("model.safetensors")):
            os.replace(file, folder / file.name)


def check_folder(folder: Path, model_type: str) -> None:
    """Raise if a folder is a file or holds another kind of model."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; a model is saved to a folder")
    config = folder / "config.json"
    if config.exists():
        try:
            found = json.loads(config.read_text(encoding="utf-8")).get("model_type")
        except (json.JSONDecodeError, AttributeError) as error:
            raise ValueError(f"{config} is not the configuration of a model; choose another folder") from error
        if found != model_type:
            raise ValueError(f"{folder} holds a model of type {found!r}; choose another folder")


def push_recommender(
    folder: str | Path, repo_id: str, private: bool | None = None, token: str | None = None
) -> CommitInfo:
    """Upload a saved folder to the Hub, without checkpoints and training state; the repository is made if need be."""
    if not (Path(folder) / "config.json").is_file():
        raise ValueError(f"{folder} holds no model (no config.json); save one first")
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    return api.upload_folder(
        repo_id=repo_id,
        folder_path=folder,
        commit_message="Upload recommender",
        ignore_patterns=["checkpoint-*", ".*", "*.bin", "*.pt", "*.bak", "trainer_state.json"],
    )
