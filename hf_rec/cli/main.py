"""The command `hf-rec`."""

import argparse
import sys
from importlib import import_module

from huggingface_hub.errors import StrictDataclassError

COMMANDS = {
    "prepare": "write the sequences of a log of any size to a folder of shards",
    "train": "train a recommender on an interaction log and evaluate it",
    "update": "train the served recommender further on the newest events",
    "evaluate": "evaluate a saved recommender or classifier beside baselines",
    "recommend": "recommend for a history, or for every user of a log",
    "similar": "list the items that are the most similar to given ones",
    "explain": "explain why an item is recommended, in words and pictures",
    "map-items": "draw a map of the items of a recommender",
    "add-items": "add new items to a saved recommender",
    "compress": "make a saved recommender smaller",
    "embed": "add vectors of texts, images or sounds to a table of items",
    "export": "export a saved recommender to a graph of ONNX or OpenVINO",
    "space": "write a page that people can try, as a Hugging Face Space",
    "serve": "serve a recommender over HTTP, with sessions",
    "federated": "train with clients that keep their histories, or simulate it",
    "demo": "train on a generated shop log, compare, save, load, recommend",
}


def main(arguments: list[str] | None = None) -> None:
    """Run one of `COMMANDS`."""
    parser = argparse.ArgumentParser(
        prog="hf-rec",
        description="Personalised recommendation with Transformers.",
        epilog="commands:\n"
        + "\n".join(f"  {name:<10} {text}" for name, text in COMMANDS.items())
        + "\n\n`hf-rec COMMAND --help` lists the options of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of the commands below")
    arguments = sys.argv[1:] if arguments is None else arguments
    command = parser.parse_args(arguments[:1]).command
    try:
        import_module(f"hf_rec.cli.{command.replace('-', '_')}").main(arguments[1:])
    except (ValueError, TypeError, OSError, StrictDataclassError) as error:
        cause = error.__cause__ if isinstance(error, StrictDataclassError) else None
        sys.exit(f"hf-rec {command}: {' '.join(str(cause or error).split())}")


if __name__ == "__main__":
    main()
