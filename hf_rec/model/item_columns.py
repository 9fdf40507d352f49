"""What a shop knows of its items beside what the model learns from: prices, brands, titles, for rules and answers."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

FILE = "item_columns.safetensors"
ITEM_KINDS = ("number", "category", "bag", "text")


class Categories(NamedTuple):
    """The categories of items, one or several each.

    Attributes:
        names: In the order of their codes, of which the first is 1.
        codes: (rows, most categories of an item), 0 where there is none.
    """

    names: list[str]
    codes: np.ndarray

    @classmethod
    def of(cls, values: Iterable[Iterable[str] | None]) -> "Categories":
        """From the distinct categories of each item, or None."""
        rows = [[*dict.fromkeys(names or ())] for names in values]
        code_of = {}
        for name in (name for names in rows for name in names):
            code_of.setdefault(name, len(code_of) + 1)
        codes = np.zeros((len(rows), max(map(len, rows), default=0)), dtype=np.int32)
        for row, names in zip(codes, rows, strict=True):
            row[: len(names)] = [code_of[name] for name in names]
        return cls([*code_of], codes)

    def followed_by(self, other: "Categories") -> "Categories":
        """The rows of both."""
        code_of = {name: code for code, name in enumerate(self.names, start=1)}
        moved = np.array([0, *(code_of.setdefault(name, len(code_of) + 1) for name in other.names)], dtype=np.int32)
        parts, width = (self.codes, moved[other.codes]), max(self.codes.shape[1], other.codes.shape[1])
        padded = [np.pad(codes, ((0, 0), (0, width - codes.shape[1]))) for codes in parts]
        return Categories([*code_of], np.concatenate(padded))


class Texts(NamedTuple):
    """Texts of items, empty where they are missing.

    Attributes:
        bytes: All texts in UTF-8, one after the other.
        offsets: (rows + 1,) where each begins.
    """

    bytes: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, values: Iterable[str | None]) -> "Texts":
        encoded = [(text or "").encode() for text in values]
        offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        return cls(np.frombuffer(b"".join(encoded), dtype=np.uint8), offsets)

    def __getitem__(self, row: int) -> str | None:
        start, end = self.offsets[row : row + 2]
        return self.bytes[start:end].tobytes().decode() or None

    def followed_by(self, other: "Texts") -> "Texts":
        """The rows of both."""
        offsets = np.concatenate([self.offsets, other.offsets[1:] + self.offsets[-1]])
        return Texts(np.concatenate([self.bytes, other.bytes]), offsets)


class ItemColumns:
    """Columns of items by token id; a row without an item, such as that of a special token, has missing values.

    Attributes:
        numbers: (rows,) float64 by name, NaN where they are missing.
        categories: [`Categories`] by name.
        texts: [`Texts`] by name.

    Example:
        >>> kinds = {"price": "number", "brand": "category"}
        >>> columns = ItemColumns.of(kinds, {"price": [1, None], "brand": ["a", None]})
        >>> columns.numbers["price"].tolist(), columns.categories["brand"].names, len(columns)
        ([1.0, nan], ['a'], 2)
    """

    def __init__(
        self, numbers: Mapping[str, np.ndarray], categories: Mapping[str, Categories], texts: Mapping[str, Texts]
    ):
        self.numbers, self.categories, self.texts = dict(numbers), dict(categories), dict(texts)
        lengths = {
            **{name: len(values) for name, values in self.numbers.items()},
            **{name: len(values.codes) for name, values in self.categories.items()},
            **{name: len(values.offsets) - 1 for name, values in self.texts.items()},
        }
        if len({*lengths.values()}) > 1:
            raise ValueError(f"the columns of items have different lengths: {lengths}")
        self.length = next(iter(lengths.values()), 0)

    @classmethod
    def of(cls, kinds: Mapping[str, str], values: Mapping[str, Sequence]) -> "ItemColumns":
        """Columns of raw values, None where they are missing.

        Args:
            kinds: By name: "number", "category", "bag" (a list of categories) or "text".
            values: By name the (rows,) values.
        """
        if unknown := {*kinds.values()} - {*ITEM_KINDS}:
            raise ValueError(f"a column of items is one of {ITEM_KINDS}, got {sorted(unknown)}")
        numbers, categories, texts = {}, {}, {}
        for name, kind in kinds.items():
            if kind == "number":
                numbers[name] = np.array(values[name], dtype=np.float64)
            elif kind == "text":
                texts[name] = Texts.of(values[name])
            else:
                lists = values[name] if kind == "bag" else ([value] if value else None for value in values[name])
                categories[name] = Categories.of(lists)
        return cls(numbers, categories, texts)

    def __len__(self) -> int:
        """Number of rows: tokens of the vocabulary."""
        return self.length

    @property
    def names(self) -> list[str]:
        """Names of all columns."""
        return sorted([*self.numbers, *self.categories, *self.texts])

    @property
    def kinds(self) -> dict[str, str]:
        """The kind of each column; that of categories of which no item has several is "category"."""
        of_categories = {
            name: "bag" if values.codes.shape[1] > 1 else "category" for name, values in self.categories.items()
        }
        return dict.fromkeys(self.numbers, "number") | of_categories | dict.fromkeys(self.texts, "text")

    def label(self, name: str, row: int) -> str | None:
        """A text, or the categories of an item separated by commas; None where it is missing."""
        if name in self.texts:
            return self.texts[name][row]
        names, codes = self.categories[name]
        return ", ".join(names[code - 1] for code in codes[row] if code) or None

    def followed_by(self, other: "ItemColumns") -> "ItemColumns":
        """The rows of both, which have the same columns."""
        if self.names != other.names:
            raise ValueError(f"the items have the columns {self.names}, got more of them with {other.names}")
        return ItemColumns(
            {name: np.concatenate([values, other.numbers[name]]) for name, values in self.numbers.items()},
            {name: values.followed_by(other.categories[name]) for name, values in self.categories.items()},
            {name: values.followed_by(other.texts[name]) for name, values in self.texts.items()},
        )

    def save(self, folder: str | Path) -> None:
        """Write the columns to a folder, as one safetensors file."""
        tensors = {f"number:{name}": values for name, values in self.numbers.items()}
        for name, values in self.categories.items():
            tensors[f"codes:{name}"] = values.codes
        for name, values in self.texts.items():
            tensors |= {f"bytes:{name}": values.bytes, f"offsets:{name}": values.offsets}
        names = {name: values.names for name, values in self.categories.items()}
        tensors = {name: np.ascontiguousarray(values) for name, values in tensors.items()}
        save_file(tensors, Path(folder) / FILE, metadata={"format": "np", "categories": json.dumps(names)})

    @classmethod
    def load(cls, file: str | Path) -> "ItemColumns":
        """Read what [`save`] wrote."""
        with safe_open(file, framework="np") as saved:
            names = json.loads(saved.metadata()["categories"])
            tensors = {key: saved.get_tensor(key) for key in saved.keys()}  # noqa: SIM118
        parts = {kind: {} for kind in ("number", "codes", "bytes", "offsets")}
        for key, values in tensors.items():
            kind, _, name = key.partition(":")
            parts[kind][name] = values
        return cls(
            parts["number"],
            {name: Categories(names[name], codes) for name, codes in parts["codes"].items()},
            {name: Texts(text, parts["offsets"][name]) for name, text in parts["bytes"].items()},
        )


__all__ = ["FILE", "ITEM_KINDS", "Categories", "ItemColumns", "Texts"]
