"""Settings of the service, which are also the options of `hf-rec serve`."""

from dataclasses import dataclass, field, fields


@dataclass
class ServiceSettings:
    """Sessions, limits and reloads of the service."""

    sessions: str = field(
        default="sessions.sqlite",
        metadata={"help": "Where sessions are kept: a file of SQLite, or redis://host:6379/0."},
    )
    session_events: int = field(default=500, metadata={"help": "Events that a session keeps, the latest ones."})
    session_days: float = field(default=30.0, metadata={"help": "Days after its last event when a session ends."})
    watch: bool = field(default=False, metadata={"help": "Load the model again when its folder changes."})
    max_history: int = field(default=10_000, metadata={"help": "Items of a history, or events of a post, at most."})
    max_candidates: int = field(default=10_000, metadata={"help": "Candidates or blocked items, at most."})
    max_top_k: int = field(
        default=100, metadata={"help": "Length of a list, at most; for an export that of its graph."}
    )
    max_body: int = field(default=1_000_000, metadata={"help": "Bytes of the body of a request, at most."})
    max_batch: int = field(default=64, metadata={"help": "Lists that are computed together, at most."})
    max_waiting: int = field(default=1000, metadata={"help": "Requests that wait for the model, at most."})
    timeout: float = field(default=10.0, metadata={"help": "Seconds after which a request is given up."})

    def __post_init__(self):
        for setting in fields(self):
            value = getattr(self, setting.name)
            if setting.name not in ("sessions", "watch") and not value > 0:
                raise ValueError(f"{setting.name} must be above 0, got {value}")


__all__ = ["ServiceSettings"]
