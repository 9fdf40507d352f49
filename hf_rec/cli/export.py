"""Export a saved recommender to a graph that ranks: the fastest way to serve it on a CPU."""

from dataclasses import dataclass, field

from transformers import HfArgumentParser

from ..serving.onnx import RUNTIMES, export_recommender


@dataclass
class ExportArguments:
    """What is exported, and where to."""

    model_name_or_path: str = field(metadata={"help": "Folder or Hub id of the recommender."})
    output_dir: str = field(metadata={"help": "New folder for the graph, its vocabulary and configuration."})
    top_k: int = field(default=100, metadata={"help": "Length of the lists that the graph ranks."})
    quantize: bool = field(
        default=False, metadata={"help": "Store weights as 8-bit integers: smaller, with slightly different lists."}
    )
    runtime: str = field(
        default="onnx", metadata={"choices": list(RUNTIMES), "help": "What runs the graph: ONNX Runtime or OpenVINO."}
    )


def main(arguments: list[str] | None = None) -> None:
    parser = HfArgumentParser(ExportArguments, prog="hf-rec export", description=__doc__)
    (args,) = parser.parse_args_into_dataclasses(arguments)
    export_recommender(args.model_name_or_path, args.output_dir, args.top_k, args.quantize, args.runtime)
    print(f"Try: hf-rec recommend --model_name_or_path {args.output_dir} --history ITEM ITEM")


if __name__ == "__main__":
    main()
