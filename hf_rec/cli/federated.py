"""Train a recommender without bringing histories together: a server, clients that keep their histories, or a
simulation of both."""

import argparse
import logging
import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from datasets import DatasetDict
from transformers import HfArgumentParser, PreTrainedModel, set_seed

from ..data.columns import as_array, id_strings
from ..data.encode import tokenize_splits
from ..data.folders import check_new
from ..data.splits import leave_one_out
from ..evaluation.evaluate import evaluate
from ..federated.catalogue import model_of_catalogue
from ..federated.local import METRICS
from ..federated.processes import HISTORY, Certificates, run_client, run_server
from ..federated.settings import FederatedSettings
from ..hub.folder import save_recommender, write_json
from ..training.create import create_model, load_model
from .arguments import DataArguments, LogArguments, feature_columns, items_of_log


@dataclass
class CreateArguments:
    """The folder that server and clients have in common: the items and an untrained model."""

    items_file: list[str] = field(metadata={"help": "A table with all items; files as for `hf-rec train`."})
    output_dir: Path = field(metadata={"help": "New folder."})
    item_column: str = field(default="item_id", metadata={"help": "Column of the item."})
    objective: str = field(
        default="next-item", metadata={"choices": ["next-item", "cloze"], "help": "As for `hf-rec train`."}
    )
    max_length: int = field(default=200, metadata={"help": "Positions of the model."})
    include_seen: bool = field(default=False, metadata={"help": "Also rank items of the history."})
    seed: int = field(default=0, metadata={"help": "Of the weights."})


@dataclass
class ServerArguments:
    """Where the server is and what it trains."""

    model_name_or_path: str = field(metadata={"help": "The folder that server and clients have in common."})
    output_dir: Path = field(metadata={"help": "New folder for the model and the history of the rounds."})
    host: str = field(default="127.0.0.1", metadata={"help": "Address; 0.0.0.0 for all of this machine."})
    port: int = field(default=8000, metadata={"help": "Port."})
    insecure: bool = field(default=False, metadata={"help": "Without TLS: others can read and change the messages."})
    ssl_ca_certfile: str | None = field(default=None, metadata={"help": "Certificate of the authority (PEM)."})
    ssl_certfile: str | None = field(default=None, metadata={"help": "Certificate of the server (PEM)."})
    ssl_keyfile: str | None = field(default=None, metadata={"help": "Key of the server (PEM)."})

    def __post_init__(self):
        given = [self.ssl_ca_certfile, self.ssl_certfile, self.ssl_keyfile]
        if self.insecure == all(given) or (self.insecure and any(given)) or (any(given) and not all(given)):
            raise ValueError("give all of --ssl_ca_certfile, --ssl_certfile and --ssl_keyfile, or --insecure")

    @property
    def certificates(self) -> Certificates | None:
        return None if self.insecure else Certificates(self.ssl_ca_certfile, self.ssl_certfile, self.ssl_keyfile)


@dataclass
class ClientArguments:
    """Which server a client answers, and from which histories."""

    model_name_or_path: str = field(metadata={"help": "The folder that server and clients have in common."})
    train_file: list[str] = field(metadata={"help": "The client's own log; files as for `hf-rec train`."})
    superlink: str = field(metadata={"help": "Address of the server, as host:port."})
    secure_aggregation: bool = field(
        default=False, metadata={"help": "Take part in secure aggregation only; as the server has it."}
    )
    insecure: bool = field(default=False, metadata={"help": "Without TLS: others can read and change the messages."})
    root_certificates: str | None = field(
        default=None, metadata={"help": "Certificate (PEM) with which that of the server is checked."}
    )

    def __post_init__(self):
        if self.insecure == bool(self.root_certificates):
            raise ValueError("give one of --root_certificates and --insecure")


@dataclass
class SimulationArguments:
    """The clients of a simulation."""

    output_dir: Path = field(metadata={"help": "New folder for the model and the history of the rounds."})
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Folder of the model to begin with; default: a new one."}
    )
    client_column: str | None = field(
        default=None,
        metadata={"help": "Column of the log that names the client of a user, as a country; default: the user."},
    )
    drop_rate: float = field(
        default=0.0, metadata={"help": "Share of the messages for training that a client leaves without an answer."}
    )
    validate_every: int = field(
        default=10, metadata={"help": "Rounds after which the model is validated on all users; 0 for never."}
    )


ROLES = {
    "create": (CreateArguments,),
    "server": (ServerArguments, FederatedSettings),
    "client": (ClientArguments, LogArguments),
    "simulate": (SimulationArguments, DataArguments, FederatedSettings),
}


def main(arguments: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog="hf-rec federated",
        description=__doc__,
        epilog="`hf-rec federated ROLE --help` lists the options of a role.",
    )
    parser.add_argument("role", choices=ROLES, metavar="ROLE", help=", ".join(ROLES))
    role = parser.parse_args(arguments[:1]).role
    parts = HfArgumentParser(ROLES[role], prog=f"hf-rec federated {role}").parse_args_into_dataclasses(arguments[1:])
    {"create": create, "server": serve, "client": join, "simulate": run_simulation}[role](*parts)


def create(args: CreateArguments) -> None:
    """Write a folder for server and clients."""
    check_new(args.output_dir)
    items = LogArguments(item_column=args.item_column).open_files(args.items_file).read({args.item_column})
    set_seed(args.seed)
    config = {"is_decoder": args.objective == "next-item", "exclude_seen": not args.include_seen}
    save_recommender(args.output_dir, *model_of_catalogue(items[args.item_column], args.max_length, config))


def serve(args: ServerArguments, settings: FederatedSettings) -> None:
    """Train with the clients that come."""
    need_flower()
    check_new(args.output_dir)
    try:
        history = run_server(
            args.model_name_or_path, args.output_dir, settings, args.host, args.port, args.certificates
        )
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    print(f"{len(history)} rounds; model and history: {args.output_dir}")


def join(args: ClientArguments, log: LogArguments) -> None:
    """Answer a server."""
    need_flower()
    model, tokenizer = load_model(args.model_name_or_path)
    sequences = log.load_sequences(log.open_files(args.train_file), feature_columns(model.config.features))
    tokenized = tokenize_splits(leave_one_out(sequences), tokenizer, model.config.features)
    run_client(args.model_name_or_path, tokenized, args.superlink, args.secure_aggregation, args.root_certificates)


def run_simulation(args: SimulationArguments, data: DataArguments, settings: FederatedSettings) -> None:
    """Train with clients in this process."""
    need_flower()
    from ..federated.simulation import simulate, split_by_client

    logging.getLogger("flwr").setLevel(logging.WARNING)
    check_new(args.output_dir)
    check_log(data)
    columns = []
    if args.model_name_or_path:
        model, tokenizer = load_model(args.model_name_or_path, data.ranking)
        columns = feature_columns(model.config.features)
    splits = data.load_splits(columns)
    if not args.model_name_or_path:
        set_seed(settings.seed)
        model, tokenizer = create_model(splits, {"is_decoder": True} | data.ranking)
    tokenized = tokenize_splits(splits, tokenizer, model.config.features)
    owners = owners_of(data, args.client_column) if args.client_column else None
    history = []

    def after_round(row: dict) -> None:
        last = row["round"] == settings.rounds
        if last or (args.validate_every and row["round"] % args.validate_every == 0):
            row |= {f"validation_{name}": value for name, value in measure(model, tokenized, "validation").items()}
        if last:
            row |= {f"test_{name}": value for name, value in measure(model, tokenized, "test").items()}
        history.append(row)
        print(row)
        args.output_dir.mkdir(parents=True, exist_ok=True)
        write_json(args.output_dir / HISTORY, history)

    simulate(model, tokenizer, split_by_client(tokenized, owners), settings, after_round, args.drop_rate)
    save_recommender(args.output_dir, model, tokenizer)


def check_log(data: DataArguments) -> None:
    """Raise for a log that a simulation would not read as it was given."""
    data.refuse("hold_out_items")
    if data.prepared:
        raise ValueError("a simulation holds all histories; give the log, not a folder of `hf-rec prepare`")


def measure(model: PreTrainedModel, tokenized: DatasetDict, split: str) -> dict[str, float]:
    """The metrics of a model over all users."""
    metrics = evaluate(model, tokenized, split=split)
    return {name: metrics[name] for name in METRICS}


def owners_of(data: DataArguments, client_column: str) -> dict[str, str]:
    """The client of each user: the most frequent value of a column of the log."""
    users = items_of_log(data.open_log(), data.user_column, [client_column], data.filter)
    if missing := users[client_column].null_count:
        raise ValueError(f"{missing} of {len(users)} users have no client, as {client_column!r} is missing")
    names = id_strings(as_array(users[data.user_column])).to_pylist()
    return dict(zip(names, map(str, users[client_column].to_pylist()), strict=True))


def need_flower() -> None:
    """Raise if Flower is not installed."""
    if find_spec("flwr") is None or find_spec("dp_accounting") is None:
        raise ValueError(
            "federated training needs Flower: pip install 'hf_rec[federated]', in an environment of its own, as it "
            "needs older versions of FastAPI and uvicorn"
        )


if __name__ == "__main__":
    main()
