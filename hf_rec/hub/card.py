"""The model card of a recommender."""

import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import NamedTuple

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..model.configuration_bert4rec import Bert4RecConfig

MARKUP = re.compile(r"([\\`*|\[\]])")
CARD_METRICS = ("ndcg@10", "hr@10", "mrr", "coverage@10", "overlap@10", "novelty@10", "popularity@10")
COLD_METRICS = ("cold_ndcg@10", "cold_hr@10", "warm_ndcg@10", "warm_hr@10")
VARIETY_METRICS = ("diversity@10", "category_diversity@10", "miscalibration@10", "gini@10", "long_tail@10")

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


def plain_text(text: str) -> str:
    """Text that Markdown and HTML show as it is, in a table, too."""
    return MARKUP.sub(r"\\\1", escape(" ".join(text.split()), quote=False))


def results_table(results: Mapping[str, Mapping[str, float]], metrics: tuple[str, ...] = CARD_METRICS) -> str:
    """A Markdown table with a row for each recommender and a column for each metric."""
    rows = [["", *metrics]]
    rows += [[plain_text(name), *(f"{values[metric]:.4f}" for metric in metrics)] for name, values in results.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def results_tables(results: Mapping[str, Mapping[str, float]]) -> str:
    """[`results_table`] and, where they were measured, tables of variety and of the accuracy for items that were held
    out and for the others."""
    tables = [results_table(results)]
    variety = tuple(name for name in VARIETY_METRICS if all(name in row for row in results.values()))
    if VARIETY_METRICS[0] in variety:
        tables.append(results_table(results, variety))
    if all(name in row for row in results.values() for name in COLD_METRICS):
        tables.append(results_table(results, COLD_METRICS))
    return "\n\n".join(tables)


def describe(config: Bert4RecConfig, num_parameters: int) -> dict[str, str]:
    """What a card says of the kind of model."""
    if config.is_decoder:
        kind, auto_class, citation = "a causal Transformer, as SASRec,", "AutoModelForCausalLM", SASREC
    else:
        kind, auto_class, citation = "a BERT4Rec encoder", "AutoModelForMaskedLM", BERT4REC
    reads = ", ".join(f"{feature.name} ({feature.at})" for feature in config.features)
    reads = f" that also reads {reads}" if reads else ""
    return {
        "architecture": f"{kind} of {num_parameters:,} parameters{reads}",
        "auto_class": auto_class,
        "citation": citation,
    }


class CardKind(NamedTuple):
    """What sets the card of one kind of model apart.

    Attributes:
        template: Its file in this folder.
        task: Of the pipeline.
        task_name: In the results of the Hub.
        metrics: Names of the metrics of the results that the card's metadata have.
        families: Their names on the Hub, if they differ.
        tables: From results to Markdown.
    """

    template: str
    task: str
    task_name: str
    metrics: Callable[[Mapping], Sequence[str]]
    families: Sequence[str] | None
    tables: Callable[[Mapping], str]


RECOMMENDER = CardKind(
    "card_template.md",
    "recommendation",
    "Sequential recommendation",
    lambda _: CARD_METRICS,
    ("ndcg", "hit_rate", "mrr"),
    results_tables,
)


def model_card(
    name: str,
    dataset: str,
    results: Mapping[str, Mapping[str, float]],
    facts: Mapping[str, object],
    repo: str | None = None,
    license: str | None = None,
    hub_dataset: str | None = None,
    kind: CardKind = RECOMMENDER,
) -> ModelCard:
    """The card of a trained model.

    Args:
        name: Title of the model, and its key in `results`.
        dataset: Name of the data.
        results: Test metrics, by name, of the model and of the baselines.
        facts: The other fields of the card's template.
        repo: Where the model can be loaded from; its title if None.
        license: Of the weights; none is claimed if None.
        hub_dataset: Id of the data set on the Hub, if it is there.
        kind: Of the model.
    """
    metrics = kind.metrics(results)
    metadata = ModelCardData(
        library_name="transformers",
        license=license,
        pipeline_tag=kind.task,
        datasets=None if hub_dataset is None else [hub_dataset],
        tags=[kind.task, "sequential-recommendation", "bert4rec", "hf_rec"],
        metrics=[*(kind.families or metrics)],
        model_name=name,
        eval_results=[
            EvalResult(
                task_type=kind.task,
                task_name=kind.task_name,
                dataset_type=dataset,
                dataset_name=dataset,
                dataset_split="test",
                metric_type=metric,
                metric_value=round(results[name][metric], 5),
            )
            for metric in metrics
        ],
    )
    template = files(__package__).joinpath(kind.template).read_text(encoding="utf-8")
    return ModelCard(
        template.format(
            metadata=metadata.to_yaml(),
            name=plain_text(name),
            dataset=plain_text(dataset),
            repo=repo or name,
            table=kind.tables(results),
            **facts,
        ),
        ignore_metadata_errors=False,
    )


__all__ = ["CARD_METRICS", "CardKind", "describe", "model_card", "results_table", "results_tables"]
