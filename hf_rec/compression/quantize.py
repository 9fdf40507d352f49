"""Post-training quantisation: codes in place of the vectors of items, and 8-bit weights in the encoder."""

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from ..model.layers import quantize_rows
from .rebuild import layers_name, rebuild


@torch.no_grad()
def quantize_items(model: PreTrainedModel, codes: int, bits: int = 8) -> PreTrainedModel:
    """A copy of a model whose item table is product-quantised, by k-means in each sub-space.

    As many codes as `hidden_size` quantise each number by itself. The content of items is kept as it is. Needs
    `pip install 'hf_rec[compression]'`.

    Args:
        codes: Codes of an item; must divide `hidden_size`.
        bits: Of a code, 4 or 8.

    Raises:
        ValueError: for a table of codes, and for one with fewer tokens than a codebook has rows.
    """
    config = model.config
    if config.item_codes:
        raise ValueError(f"the item table has codes already (item_codes={config.item_codes}); give a plain one")
    if config.vocab_size < 2**bits:
        raise ValueError(
            f"a codebook of {bits} bits has {2**bits} rows, but there are only {config.vocab_size} tokens"
        )
    if codes < 1 or config.hidden_size % codes:
        raise ValueError(f"the codes of an item must divide hidden_size ({config.hidden_size}), got {codes}")
    weights = model.state_dict()
    exact = None if config.is_decoder else config.mask_token_id
    for name in [name for name in weights if name.endswith("id_embeddings.weight")]:
        vectors = weights.pop(name)
        packed, codebooks = product_quantize(vectors.float().cpu().numpy(), codes, bits, exact)
        table = name.removesuffix("weight")
        weights[f"{table}packed"] = torch.from_numpy(packed)
        weights[f"{table}codebooks"] = torch.from_numpy(codebooks).to(vectors.dtype)
    return rebuild(model, weights, item_codes=codes, item_code_bits=bits)


def product_quantize(
    vectors: np.ndarray, codes: int, bits: int, exact: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Codes and codebooks of the rows of a table.

    Args:
        vectors: (rows, size).
        exact: A row that is represented exactly, at the cost of the centroids that are used least: the mask, which a
            masked model reads in every request.

    Returns:
        (rows, codes * bits / 8) packed codes, and (codes, 2**bits, size / codes) codebooks.
    """
    faiss = import_faiss()
    quantizer = faiss.ProductQuantizer(vectors.shape[1], codes, bits)
    quantizer.cp.min_points_per_centroid = 1  # the table is all there is: no warning that it is small
    quantizer.cp.nredo = 5  # one start of k-means may end far from the best centroids
    quantizer.train(vectors)
    shape = codes, 2**bits, vectors.shape[1] // codes
    codebooks = faiss.vector_to_array(quantizer.centroids).reshape(shape)
    packed = quantizer.compute_codes(vectors)
    if exact is not None:
        used = faiss.unpack_bitstrings(packed, codes, bits)
        own = vectors[exact].reshape(codes, -1)
        for number in range(codes):
            codebooks[number, np.bincount(used[:, number], minlength=2**bits).argmin()] = own[number]
        faiss.copy_array_to_vector(codebooks.ravel(), quantizer.centroids)
        packed = quantizer.compute_codes(vectors)
    return packed, codebooks


def import_faiss():
    try:
        import faiss
    except ImportError as error:
        raise ImportError("codes of items need faiss: pip install 'hf_rec[compression]'") from error
    return faiss


@torch.no_grad()
def quantize_layers(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of a model whose encoder has 8-bit weights, each output with a scale of its own.

    Raises:
        ValueError: for a model that has them already.
    """
    if model.config.int8_layers:
        raise ValueError("the layers have 8-bit weights already (int8_layers)")
    weights = model.state_dict()
    for name, module in model.base_model.layers.named_modules(prefix=layers_name(model)):
        if isinstance(module, nn.Linear):
            weights[f"{name}.weight"], weights[f"{name}.scale"] = quantize_rows(module.weight)
    return rebuild(model, weights, int8_layers=True)


__all__ = ["product_quantize", "quantize_items", "quantize_layers"]
