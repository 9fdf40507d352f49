"""Tokenizer between item ids and input ids: one item, one token, whatever characters its id has."""

from collections.abc import Iterable
from functools import cached_property
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tokenizers import Tokenizer, models
from transformers.tokenization_utils_tokenizers import TokenizersBackend
from transformers.utils import to_py_obj

from .columns import as_array, id_strings, is_list, list_lengths, make_lists


class ItemTokenizer(TokenizersBackend):
    """Looks whole item ids up in a vocabulary; all its state is `tokenizer.json` and `tokenizer_config.json`.

    A call takes a history (a list of item ids, or item ids separated by white space in a string) or a list of
    histories. Items that are not in the vocabulary become the unknown token. A folder that it saved also opens with
    `AutoTokenizer` where this package is not installed; lists are then called with `is_split_into_words=True`.

    Example:
        >>> tokenizer = ItemTokenizer.from_items(["tea", "green tea", "cup"])
        >>> tokenizer(["green tea", "cup"])["input_ids"]
        [4, 5]
        >>> tokenizer("tea cup saucer")["input_ids"]
        [3, 5, 1]
        >>> tokenizer.decode([4, 5])
        ['green tea', 'cup']
    """

    @classmethod
    def from_items(cls, items: Iterable, max_length: int = 200) -> "ItemTokenizer":
        """Vocabulary of the distinct items, in order of first appearance, after the special tokens.

        Args:
            items: Item ids, or histories of them: any iterable, a column of a `datasets.Dataset`, an Arrow array.
                Integers become their decimal strings.
            max_length: Positions of the model's input; the most recent items are kept by `truncation=True`.

        Raises:
            TypeError: for ids that are neither strings nor integers.
            ValueError: for no items, a missing id or an empty one.
        """
        items = as_array(items)
        ids = id_strings(items.flatten() if is_list(items.type) else items)
        if ids.null_count:
            raise ValueError(f"{ids.null_count} of {len(ids)} item ids are missing or empty")
        catalogue = ids.unique().to_pylist()
        if not catalogue:
            raise ValueError("no items: a vocabulary needs at least one item id")
        special = {}
        for name, token in (("pad_token", "[PAD]"), ("unk_token", "[UNK]"), ("mask_token", "[MASK]")):
            while token in catalogue:  # an item may be called so; the special token then takes another name
                token = f"[{token}]"
            special[name] = token
        vocabulary = {token: index for index, token in enumerate([*special.values(), *catalogue])}
        return cls(
            tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token=special["unk_token"])),
            model_max_length=max_length,
            padding_side="left",
            truncation_side="left",
            split_special_tokens=True,  # text that spells a special token, inside an item id, is not one
            model_input_names=["input_ids", "attention_mask"],
            **special,
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        tokenizer = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        if not isinstance(tokenizer.backend_tokenizer.model, models.WordLevel):
            raise ValueError(
                f"the tokenizer.json of {pretrained_model_name_or_path} holds a "
                f"{type(tokenizer.backend_tokenizer.model).__name__} model, not a vocabulary of items (WordLevel): it "
                "belongs to another kind of model"
            )
        return tokenizer

    @cached_property
    def item_ids(self) -> pa.Array:
        """The tokens in order of their ids, special tokens null: (vocab_size,) strings."""
        vocabulary = self.get_vocab()
        tokens = np.empty(len(self), dtype=object)
        tokens[list(vocabulary.values())] = list(vocabulary)
        tokens[self.all_special_ids] = None
        return pa.array(tokens, pa.large_string())

    def encode_column(self, histories: Iterable) -> pa.ListArray:
        """Input ids of a whole column of histories, in Arrow: not truncated, not padded.

        Args:
            histories: A list column of a `datasets.Dataset`, an Arrow list array, or lists of item ids.

        Returns:
            Lists of int32, as long as the histories.
        """
        histories = as_array(histories)
        if pa.types.is_null(histories.type):  # no history, or missing ones alone
            histories = histories.cast(pa.list_(pa.large_string()))
        if not is_list(histories.type):
            raise TypeError(f"a column of histories holds lists of item ids, got {histories.type}")
        ids = pc.index_in(id_strings(histories.flatten()), self.item_ids, skip_nulls=True)
        return make_lists(ids.fill_null(self.unk_token_id), list_lengths(histories))

    def _add_tokens(self, new_tokens, special_tokens=False):
        """Add items to the vocabulary. The parent class would also find them inside the ids of other items.

        Raises:
            ValueError: for a new special token: the model knows only those that it has, and would recommend others.
        """
        vocabulary = self.get_vocab()
        if special_tokens or all(getattr(token, "special", False) for token in new_tokens):
            if unknown := [str(token) for token in new_tokens if str(token) not in vocabulary]:
                raise ValueError(f"an item tokenizer takes no new special tokens, got {unknown}; add them as items")
            return super()._add_tokens(new_tokens, special_tokens)
        known = len(vocabulary)
        for item in map(str, new_tokens):
            vocabulary.setdefault(item, len(vocabulary))
        self.backend_tokenizer.model = models.WordLevel(vocabulary, unk_token=self.unk_token)
        self.__dict__.pop("item_ids", None)
        return len(vocabulary) - known

    def decode(self, token_ids, skip_special_tokens: bool = False, **_) -> list:
        """Item ids of input ids: a list for a sequence, a list of lists for a batch."""
        token_ids = to_py_obj(token_ids)
        if isinstance(token_ids, int):
            token_ids = [token_ids]
        if token_ids and isinstance(token_ids[0], list):
            return [self.convert_ids_to_tokens(row, skip_special_tokens) for row in token_ids]
        return self.convert_ids_to_tokens(token_ids, skip_special_tokens)

    def _encode_plus(self, text, **kwargs):
        return super()._encode_plus(text=whole_items(text), **(kwargs | {"is_split_into_words": True}))


def whole_items(histories: str | Iterable) -> list:
    """A history as a list of item ids, or a list of such histories; a string is split at white space.

    Raises:
        TypeError: for an item id that is not a string.
    """
    if isinstance(histories, str):
        return histories.split()
    rows = list(histories)
    if all(isinstance(row, str) for row in rows):
        return rows
    rows = [row.split() if isinstance(row, str) else row for row in rows]
    for item in chain.from_iterable(row if isinstance(row, (list, tuple)) else [row] for row in rows):
        if not isinstance(item, str):
            raise TypeError(f"item ids are strings, got {item!r} ({type(item).__name__})")
    return rows


__all__ = ["ItemTokenizer"]
