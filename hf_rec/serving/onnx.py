"""A recommender as one graph, ranking included, which ONNX Runtime or OpenVINO runs behind the interface of the
pipeline."""

import json
import os
from pathlib import Path

import torch

from ..compat import exporters, openvino_exporters
from ..data.folders import check_new, filling
from ..data.tokenization_items import ItemTokenizer
from ..model.configuration_bert4rec import Bert4RecConfig
from ..model.inputs import build_request
from ..model.item_columns import FILE as ITEM_COLUMNS
from ..model.item_columns import ItemColumns
from ..model.modeling_bert4rec import Bert4RecPreTrainedModel, recommender_class, saved_rules
from ..model.pipeline_bert4rec import RecommendationPipeline, next_scores
from ..model.ranking import top_items

RUNTIMES = ("onnx", "openvino")
GRAPH = "model.onnx"
TABLE, BIASES = "recommender.model.embeddings.items.id_embeddings.weight", "recommender.scores.bias"
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when onnxruntime is imported; it would report to its makers


class RankingGraph(Bert4RecPreTrainedModel):
    """The exported graph: from the inputs of [`build_request`] to the best items."""

    def __init__(self, model: Bert4RecPreTrainedModel, top_k: int):
        super().__init__(model.config)
        self.recommender = model
        self.top_k = top_k

    def forward(self, input_ids, banned_ids, logits_to_keep, attention_mask=None, event_features=None):
        scores = next_scores(
            self.recommender,
            input_ids=input_ids,
            banned_ids=banned_ids,
            logits_to_keep=logits_to_keep,
            attention_mask=attention_mask,
            event_features=event_features,
        )
        ids, best = top_items(scores, self.top_k)
        return {"ids": ids, "best": best, "scores": scores}


class OnnxRecommendationPipeline(RecommendationPipeline):
    """[`RecommendationPipeline`] on what [`export_recommender`] wrote, for the least time a call.

    Lists without `candidates` and rules are no longer than the `top_k` of the export.

    Example:
        >>> recommend = OnnxRecommendationPipeline.from_pretrained("exported")  # doctest: +SKIP
        >>> recommend(["sku-012", "sku-017"], top_k=3)  # doctest: +SKIP
    """

    @classmethod
    def from_pretrained(cls, folder: str | Path, **session_options):
        """Open an exported recommender.

        Args:
            folder: Where [`export_recommender`] wrote.
            session_options: Attributes of `onnxruntime.SessionOptions`, such as `intra_op_num_threads`.
        """
        folder = str(Path(folder).resolve())
        model = cls.open_graph(folder, session_options)
        columns = Path(folder) / ITEM_COLUMNS
        model.item_columns = ItemColumns.load(columns) if columns.is_file() else None
        model.rules = saved_rules(folder)
        opened = cls(model=model, tokenizer=ItemTokenizer.from_pretrained(folder), device=model.device)
        opened.source = folder, session_options
        return opened

    THREADS = "intra_op_num_threads"

    @staticmethod
    def open_graph(folder: str, session_options: dict):
        """The exported graph, ready to run."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        for name, value in session_options.items():
            setattr(options, name, value)
        return exporters().ExportedModel.from_pretrained(folder, session_options=options)

    def __repr__(self):
        return f"{type(self).__name__}.from_pretrained({self.source[0]!r})"

    def __reduce__(self):
        return reopen, (type(self), *self.source)

    def scores(self, inputs):
        return self.model(**inputs)["scores"]

    def _forward(self, inputs, top_k=10, explain_rules=False):
        if "candidate_ids" in inputs or "rules" in inputs:
            return super()._forward(inputs, top_k, explain_rules)
        outputs = self.model(**inputs)
        exported = outputs["ids"].shape[1]
        if top_k > exported and exported < self.model.config.vocab_size:
            raise ValueError(f"top_k is {top_k}, but the graph was exported with top_k={exported}; export it anew")
        return self.checked(outputs["ids"][:, :top_k], outputs["best"][:, :top_k])

    def item_scores(self, inputs, item_ids):
        return self.model(**inputs)["scores"].index_select(1, item_ids)

    def scoring_table(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(vocab_size, hidden_size) vectors and (vocab_size,) biases by which the graph scores items, from its file.

        Needs `pip install 'hf_rec[onnx]'`. Those of 8-bit weights are what the graph multiplies by.
        """
        import onnx

        config, graph = self.model.config, Path(self.source[0]) / GRAPH
        if config.item_codes or not graph.is_file():
            raise ValueError(
                f"the export {self.source[0]} has no table of items, as it is not of ONNX or has codes for vectors; "
                "give the saved recommender"
            )
        weights = {tensor.name: tensor for tensor in onnx.load(graph).graph.initializer}
        if config.tie_word_embeddings:
            return read_weights(weights, TABLE), read_weights(weights, BIASES)
        turned = [config.hidden_size, config.vocab_size]  # a table for scores alone is stored as it is multiplied
        name = next((name for name, tensor in weights.items() if [*tensor.dims] == turned), "table of scores")
        return read_weights(weights, name.removesuffix("_quantized")).t(), read_weights(weights, BIASES)


def read_weights(weights: dict, name: str) -> torch.Tensor:
    """Weights of a graph by their name; of 8-bit ones the numbers that they stand for."""
    from onnx.numpy_helper import to_array

    if name in weights:
        return torch.from_numpy(to_array(weights[name]).copy())
    if f"{name}_quantized" not in weights:
        raise ValueError(
            f"the exported graph has no weights {name!r}; open the recommender from which it was exported"
        )
    codes, scale, zero = (
        torch.from_numpy(to_array(weights[f"{name}_{part}"]).copy()) for part in ("quantized", "scale", "zero_point")
    )
    return (codes.float() - zero.float()) * scale


class OpenVinoRecommendationPipeline(OnnxRecommendationPipeline):
    """[`OnnxRecommendationPipeline`] on an export with `runtime="openvino"`. The options of `from_pretrained` are
    properties of OpenVINO, such as `INFERENCE_NUM_THREADS`; it computes in float32 unless they say otherwise."""

    THREADS = "INFERENCE_NUM_THREADS"

    @staticmethod
    def open_graph(folder: str, session_options: dict):
        model = exporters().ExportedModel.from_pretrained(folder)
        return model.to("cpu", config={"INFERENCE_PRECISION_HINT": "f32"} | session_options)


def open_export(folder: str | Path, threads: int | None = None) -> OnnxRecommendationPipeline:
    """The pipeline of an exported recommender, whatever it was exported for.

    Args:
        threads: Of the runtime; as many as it takes by default if None.
    """
    exported = json.loads((Path(folder) / "export.json").read_text(encoding="utf-8"))
    is_openvino = exported["export_format"] == "openvino"
    kind = OpenVinoRecommendationPipeline if is_openvino else OnnxRecommendationPipeline
    return kind.from_pretrained(folder, **({} if threads is None else {kind.THREADS: threads}))


def reopen(kind: type, folder: str, session_options: dict) -> OnnxRecommendationPipeline:
    """Open an export again, in the process that unpickles it."""
    return kind.from_pretrained(folder, **session_options)


def export_recommender(
    model_name_or_path: str | Path,
    output_dir: str | Path,
    top_k: int = 100,
    quantize: bool = False,
    runtime: str = "onnx",
) -> None:
    """Write a saved recommender as a graph, with its vocabulary, configuration, item columns and rules.

    Needs `pip install 'hf_rec[onnx]'`, or `'hf_rec[openvino]'`.

    Args:
        model_name_or_path: Folder or Hub id of the recommender.
        output_dir: A new or empty folder; files appear in it when all is written, `export.json` as the last one.
        top_k: Length of the lists that the graph ranks; cut to the size of the catalogue.
        quantize: Whether weights, the item table among them, become 8-bit integers, in about a quarter of the memory.
            It changes the lists a little: measure what it costs.
        runtime: What the graph is for: "onnx", for ONNX Runtime, or "openvino".

    Raises:
        ValueError: for an `output_dir` that holds something, a `top_k` below 1, and 8-bit weights for OpenVINO.
    """
    output_dir = check_new(output_dir)
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    if runtime not in RUNTIMES or (quantize and runtime != "onnx"):
        raise ValueError(f"runtime must be one of {RUNTIMES}, and 'onnx' to quantize, got {runtime!r}")
    config = Bert4RecConfig.from_pretrained(model_name_or_path)
    model = recommender_class(config).from_pretrained(model_name_or_path, dtype=torch.float32)
    graph = RankingGraph(model.fold_items(), min(top_k, model.config.vocab_size)).eval()
    inputs = example_inputs(config)
    axes = dynamic_axes(config, inputs)
    kinds = openvino_exporters() if runtime == "openvino" else exporters()
    if runtime == "openvino":
        exported = kinds.OpenVINOExporter().export(graph, inputs, config=kinds.OpenVINOConfig(dynamic_shapes=axes))
    else:
        quantizer = kinds.OnnxRuntimeQuantizer(kinds.OnnxRuntimeDynamicConfig()) if quantize else None
        onnx_config = kinds.OnnxConfig(dynamic_shapes=axes, quantizer=quantizer)
        exported = kinds.OnnxExporter().export(graph, inputs, config=onnx_config)
    with filling(output_dir, last="export.json") as staging:
        exported.save_pretrained(staging)
        ItemTokenizer.from_pretrained(model_name_or_path).save_pretrained(staging)
        model.save_shop(staging)


def example_inputs(config: Bert4RecConfig) -> dict[str, torch.Tensor]:
    """A batch of three requests with two items each; the exporter takes a size of 1 for a constant."""
    item = next(index for index in range(config.vocab_size) if index not in config.special_token_ids)
    codes = torch.zeros(3, len(config.columns), dtype=torch.long).tolist()
    return build_request(config, [[item, item]] * 3, [codes] * 3, blocked=[item, config.pad_token_id])


def dynamic_axes(config: Bert4RecConfig, inputs: dict[str, torch.Tensor]) -> dict[str, dict]:
    """The axes of each input that have any size."""
    batch = torch.export.Dim("batch")
    length = torch.export.Dim("length", max=config.max_position_embeddings)
    second = {"banned_ids": torch.export.Dim("banned"), "logits_to_keep": None}
    return {name: {0: batch} | ({1: axis} if (axis := second.get(name, length)) else {}) for name in inputs}


__all__ = ["OnnxRecommendationPipeline", "OpenVinoRecommendationPipeline", "export_recommender", "open_export"]
