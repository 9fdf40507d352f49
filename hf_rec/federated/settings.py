"""What the server of a federated training decides, and tells its clients."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

STRATEGIES = ("fedavg", "fedprox", "fedadam")
OPTIMIZERS = {"sgd": "sgd", "adamw": "adamw_torch"}  # of a client, by their names in `TrainingArguments`
COUNTS = ("rounds", "clients_per_round", "local_steps", "local_batch_size")
POSITIVE = ("local_learning_rate", "server_learning_rate", "adaptivity", "timeout")
NOT_NEGATIVE = ("min_clients", "proximal_mu", "clipping_norm", "noise_multiplier", "evaluate_every")
MIN_SECURE_CLIENTS = 3  # of a sum of which no client can tell another's part


@dataclass
class FederatedSettings:
    """Rounds of training among clients that keep their histories.

    In each round the server sends the weights to some clients, each of them takes a few steps on its own histories,
    and the server averages the weights that come back.

    Raises:
        ValueError: for a choice or a number out of range, and for choices that contradict each other.
    """

    strategy: str = field(
        default="fedadam",
        metadata={
            "choices": [*STRATEGIES],
            "help": "fedavg takes the mean of the clients' weights; fedprox also holds clients near the weights that "
            "they received; fedadam takes a step of Adam towards the mean.",
        },
    )
    rounds: int = field(default=100, metadata={"help": "Rounds of training."})
    clients_per_round: int = field(default=50, metadata={"help": "Clients that are drawn for a round."})
    min_clients: int = field(
        default=0, metadata={"help": "Clients that must be there for a round to begin; 0 for those of a round."}
    )
    local_steps: int = field(default=1, metadata={"help": "Steps of a client in a round."})
    local_batch_size: int = field(default=32, metadata={"help": "Histories in a step; all of a client with fewer."})
    local_learning_rate: float = field(default=1.0, metadata={"help": "Learning rate of a client, constant."})
    local_optimizer: str = field(
        default="sgd",
        metadata={"choices": [*OPTIMIZERS], "help": "Optimizer of a client, which starts anew in each round."},
    )
    proximal_mu: float = field(default=0.01, metadata={"help": "fedprox: weight of the distance to the weights."})
    server_learning_rate: float = field(default=0.01, metadata={"help": "fedadam: learning rate of the server."})
    adaptivity: float = field(
        default=1e-4, metadata={"help": "fedadam: what is added to the root of the second moment, tau in the paper."}
    )
    clipping_norm: float = field(
        default=0.0, metadata={"help": "Largest Euclidean norm of a client's update; 0 for no limit."}
    )
    noise_multiplier: float = field(
        default=0.0,
        metadata={
            "help": "Standard deviation of the noise that the server adds to the sum of the updates, in units of "
            "--clipping_norm; 0 for no differential privacy."
        },
    )
    delta: float = field(default=1e-5, metadata={"help": "The delta for which the epsilon of the run is given."})
    secure_aggregation: bool = field(
        default=False, metadata={"help": "Whether the server learns only the sum of the updates (SecAgg+)."}
    )
    evaluate_every: int = field(
        default=0,
        metadata={"help": "Rounds after which all clients send metrics of their own histories; 0 for never."},
    )
    timeout: float = field(default=600.0, metadata={"help": "Seconds that a round waits for clients."})
    seed: int = field(default=0, metadata={"help": "Of the clients' draws and, in a simulation, of all draws."})

    def __post_init__(self):
        for name, known in (("strategy", STRATEGIES), ("local_optimizer", OPTIMIZERS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {[*known]}, got {getattr(self, name)!r}")
        for name, holds, text in (
            *((name, lambda value: value >= 1, "at least 1") for name in COUNTS),
            *((name, lambda value: value > 0, "above 0") for name in POSITIVE),
            *((name, lambda value: value >= 0, "at least 0") for name in NOT_NEGATIVE),
            ("delta", lambda value: 0 < value < 1, "above 0 and below 1"),
        ):
            if not holds(getattr(self, name)):
                raise ValueError(f"{name} must be {text}, got {getattr(self, name)}")
        self.check_combinations()

    def check_combinations(self) -> None:
        """Raise for choices that contradict each other."""
        if self.strategy == "fedprox" and self.local_steps == 1:
            raise ValueError(
                "fedprox with one local step is fedavg, as a client begins at the received weights; give local_steps "
                "of 2 or more"
            )
        if self.noise_multiplier and not self.clipping_norm:
            raise ValueError("noise_multiplier needs a clipping_norm, of which it is a multiple")
        if self.noise_multiplier and self.evaluate_every:
            raise ValueError(
                "evaluate_every makes clients send metrics without noise, which epsilon would not cover; give "
                "evaluate_every=0 with noise_multiplier"
            )
        if self.secure_aggregation and self.clients_per_round < MIN_SECURE_CLIENTS:
            raise ValueError(
                f"secure_aggregation needs at least {MIN_SECURE_CLIENTS} clients_per_round, got "
                f"{self.clients_per_round}"
            )

    @property
    def is_uniform(self) -> bool:
        """Whether clients have equal weights in the mean, so that none tells how many events it has."""
        return self.secure_aggregation or self.noise_multiplier > 0

    @property
    def local(self) -> dict[str, Any]:
        """What clients are told, by the names of Flower."""
        names = ("local_steps", "local_batch_size", "local_learning_rate", "local_optimizer", "clipping_norm", "seed")
        return {"uniform": self.is_uniform} | {dashed(name): getattr(self, name) for name in names}

    @property
    def config(self) -> dict[str, Any]:
        """All settings as the configuration of a run of Flower."""
        return {dashed(name): value for name, value in asdict(self).items()}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "FederatedSettings":
        """The inverse of `config`."""
        return cls(**{entry.name: config[dashed(entry.name)] for entry in fields(cls)})


def dashed(name: str) -> str:
    return name.replace("_", "-")


__all__ = ["FederatedSettings"]
