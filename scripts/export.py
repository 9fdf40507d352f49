#!/usr/bin/env python
"""Export a saved recommender to an ONNX graph that ranks: the fastest way to serve it on a CPU."""

from dataclasses import dataclass, field

from transformers import HfArgumentParser

from hf_rec.export import export_recommender


@dataclass
class ExportArguments:
    """What is exported, and where to."""

    model_name_or_path: str = field(metadata={"help": "Folder or Hub id of the recommender."})
    output_dir: str = field(metadata={"help": "New folder for the graph, its vocabulary and configuration."})
    top_k: int = field(default=100, metadata={"help": "Length of the lists that the graph ranks."})
    quantize: bool = field(
        default=False, metadata={"help": "Weights as 8-bit integers: smaller, and slightly other lists."}
    )


def main() -> None:
    (args,) = HfArgumentParser(ExportArguments, description=__doc__).parse_args_into_dataclasses()
    export_recommender(args.model_name_or_path, args.output_dir, args.top_k, args.quantize)
    print(f"Try: python scripts/recommend.py --model_name_or_path {args.output_dir} --history ITEM ITEM")


if __name__ == "__main__":
    main()
