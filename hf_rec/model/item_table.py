"""The item table: the one place that gives the vectors of items, to read histories and to score the catalogue."""

import torch
from torch import nn

from .configuration_bert4rec import Bert4RecConfig


class ItemTable(nn.Module):
    """A vector for each token id. An untied model has one table to read items and another one to score them.

    Attributes:
        id_embeddings: The learned vectors of the ids.
    """

    def __init__(self, config: Bert4RecConfig):
        super().__init__()
        self.id_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)

    @property
    def sparse_gradients(self) -> bool:
        """Whether [`forward`] gives sparse gradients, for an optimizer that updates only the rows of a step."""
        return self.id_embeddings.sparse

    @sparse_gradients.setter
    def sparse_gradients(self, sparse: bool) -> None:
        self.id_embeddings.sparse = sparse

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """(..., hidden_size) vectors of (...) token ids."""
        return self.id_embeddings(ids)

    def all_items(self) -> torch.Tensor:
        """(vocab_size, hidden_size) vectors of all token ids."""
        return self.id_embeddings.weight


__all__ = ["ItemTable"]
