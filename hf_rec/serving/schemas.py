"""Bodies of the requests and answers of the service."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..model.pipeline_bert4rec import CANDIDATES, REQUEST

Whole = Annotated[int, Field(ge=-(2**62), le=2**62)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Value = str | bool | Whole | Number | None
Time = Annotated[float, Field(ge=-(2**53), le=2**53, allow_inf_nan=False)]
SESSION_ID = r"^[A-Za-z0-9_.:@=~+-]{1,128}$"
SessionId = Annotated[str, Field(pattern=SESSION_ID)]
Stored = Annotated[str, Field(max_length=1000)]  # whose characters are whole, which pydantic checks with a length
Rules = list[dict[str, Any]]
OPTIONS = (
    "exclude_seen",
    "blocked",
    "rules",
    "extra_rules",
    "explain",
    "explain_rules",
)  # of the pipeline


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class History(BaseModel):
    """A history with columns: a value for each item, or one for all."""

    model_config = ConfigDict(extra="allow", strict=True)
    __pydantic_extra__: dict[str, Value | list[Value]]
    item_ids: list[str]
    timestamps: list[Time | None] | None = None

    @model_validator(mode="after")
    def check_columns(self):
        if reserved := sorted({REQUEST, CANDIDATES, "user_id"} & self.__pydantic_extra__.keys()):
            raise ValueError(f"{reserved} are no columns of a history")
        return self

    def row(self) -> dict[str, Any]:
        return {name: value for name, value in self if value is not None}


class RecommendRequest(Body):
    """A history or a session, and what list is asked for."""

    history: list[str] | History | None = Field(None, examples=[["sku-012", "sku-017"]])
    session_id: SessionId | None = None
    request: dict[str, Value] = Field({}, description="What is known of the request: its time, the country.")
    top_k: int = Field(10, ge=1)
    exclude_seen: bool | None = None
    candidates: list[str] | None = None
    blocked: list[str] = []
    rules: Rules | None = Field(None, description="In place of the saved rules.")
    extra_rules: Rules = Field([], description="Beside them.")
    explain: bool = False
    explain_rules: bool = False

    @model_validator(mode="after")
    def check_history(self):
        if (self.history is None) == (self.session_id is None):
            raise ValueError("give one of history and session_id; a new user has the history []")
        return self

    def options(self) -> dict[str, Any]:
        """Options of a call of the pipeline, without those that are as by default."""
        fields = {name: field.default for name, field in type(self).model_fields.items() if name in OPTIONS}
        given = {name: getattr(self, name) for name in fields}
        return {"top_k": self.top_k} | {name: value for name, value in given.items() if value != fields[name]}


class Reason(BaseModel):
    item_id: str
    attribution: float


class RecommendedItem(BaseModel):
    """An entry of a list."""

    item_id: str
    score: float
    title: str | None = None
    because: list[Reason] | None = None
    score_without_rules: float | None = None
    place_without_rules: int | None = None
    rules: list[str] | None = None


class ItemList(BaseModel):
    """A ranked list, best first, and the version of the model that made it."""

    items: list[RecommendedItem]
    model_version: str


class PostedEvent(BaseModel):
    """An event: its item, its time (that of the server by default) and the columns that the model reads."""

    model_config = ConfigDict(extra="allow", strict=True)
    __pydantic_extra__: dict[str, Stored | bool | Whole | Number | None]
    item_id: Stored
    timestamp: Time | None = None


class PostedEvents(Body):
    events: list[PostedEvent] = Field(min_length=1, examples=[[{"item_id": "sku-012"}]])


class StoredEvents(BaseModel):
    stored: int


class Session(BaseModel):
    """The events of a session that are kept, oldest first."""

    session_id: str
    events: list[PostedEvent]


class SimilarRequest(Body):
    item_id: str
    top_k: int = Field(10, ge=1)


class State(BaseModel):
    status: str
    model_version: str | None = None


class Problem(BaseModel):
    """What was wrong."""

    detail: str
