"""Vectors of texts, images and sounds by an encoder of the Hub, for the content of items."""

import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch
from tqdm.auto import tqdm
from transformers.utils import logging

from .files import write_whole

logger = logging.get_logger(__name__)

PART = 1_024  # values whose vectors are written together
Encoder = Callable[[list], np.ndarray]


def join_texts(table: pa.Table, columns: Sequence[str]) -> list[str | None]:
    """One text for each row, of the columns that are not missing; None where all are.

    Example:
        >>> join_texts(pa.table({"title": ["Lamp", None], "colour": ["red", None]}), ["title", "colour"])
        ['Lamp. red', None]
    """
    rows = zip(*(table[name].to_pylist() for name in columns), strict=True)
    texts = [". ".join(str(part).strip() for part in row if part is not None and str(part).strip()) for row in rows]
    return [text or None for text in texts]


def embed(values: Sequence, encode: Encoder, folder: Path, identity: dict[str, Any], batch_size: int = 64) -> pa.Array:
    """A vector for each value, null where it is None; equal values are encoded once.

    What is done is kept in `folder`, so that an interrupted call goes on where it stopped.

    Args:
        encode: Gives (values, width) vectors of a list of values.
        folder: For the parts that are done; the caller removes it when the result is safe.
        identity: What decides on the vectors, such as the name of the encoder. Parts of another one are not used.
    """
    keys = [None if value is None else key_of(value) for value in values]
    distinct = {key: value for key, value in zip(keys, values, strict=True) if key is not None}
    if not distinct:
        raise ValueError("there is nothing to encode: all values are missing")
    order = list(distinct)
    identity = identity | {"values": hashlib.sha256("".join(order).encode()).hexdigest(), "part": PART}
    open_parts(folder, identity)
    vectors = []
    for number, start in enumerate(tqdm(range(0, len(order), PART), desc="encoding", unit="part")):
        file = folder / f"part-{number:06}.npy"
        if not file.is_file():
            given = [distinct[key] for key in order[start : start + PART]]
            part = np.concatenate([*encode_batches(given, encode, batch_size)])
            write_whole(file, lambda stream, part=part: np.save(stream, part, allow_pickle=False))
        vectors.append(np.load(file, allow_pickle=False))
    vectors = np.concatenate(vectors).astype(np.float32)
    if not np.isfinite(vectors).all():
        raise ValueError("the encoder gave vectors that are not finite")
    places = {key: place for place, key in enumerate(order)}
    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    lists = lists.cast(pa.list_(pa.float32()))
    return lists.take(pa.array([places.get(key) for key in keys], pa.int64()))


def key_of(value) -> str:
    """A hash of a text, of bytes, or of a dictionary of them."""
    if isinstance(value, dict):
        value = value.get("bytes") or str(value.get("path"))
    data = value if isinstance(value, bytes) else str(value).encode()
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def open_parts(folder: Path, identity: dict[str, Any]) -> None:
    """Keep the parts of the same call; remove those of another one."""
    file = folder / "identity.json"
    if folder.is_dir():
        if file.is_file() and json.loads(file.read_text(encoding="utf-8")) == identity:
            logger.warning(f"going on with the {len(list(folder.glob('part-*.npy')))} parts in {folder}")
            return
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    write_whole(file, lambda stream: stream.write(json.dumps(identity).encode()))


def encode_batches(values: list, encode: Encoder, batch_size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(values), batch_size):
        yield np.asarray(encode(values[start : start + batch_size]), dtype=np.float32)


def text_encoder(model_name_or_path: str) -> Encoder:
    """An encoder of texts: a model of sentence-transformers, or any other text encoder, whose states are averaged.

    Needs `pip install 'hf_rec[text]'`.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ImportError("vectors of texts need sentence-transformers: pip install 'hf_rec[text]'") from error
    model = SentenceTransformer(model_name_or_path)
    return lambda texts: model.encode(texts, batch_size=len(texts), show_progress_bar=False)


def image_encoder(model_name_or_path: str) -> Encoder:
    """An encoder of images: any vision model of Transformers. Needs `pip install 'hf_rec[image]'`."""
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(model_name_or_path)
    return pooled(model_name_or_path, lambda images: processor(list(map(open_image, images)), return_tensors="pt"))


def audio_encoder(model_name_or_path: str) -> Encoder:
    """An encoder of sounds: any audio model of Transformers. Needs `pip install 'hf_rec[audio]'`."""
    from transformers import AutoFeatureExtractor

    extractor = AutoFeatureExtractor.from_pretrained(model_name_or_path)
    rate = extractor.sampling_rate

    def prepare(sounds: list):
        waves = [open_sound(sound, rate) for sound in sounds]
        return extractor(waves, sampling_rate=rate, padding=True, return_tensors="pt")

    encode = pooled(model_name_or_path, prepare)
    return lambda sounds: np.concatenate([encode([sound]) for sound in sounds])  # padding would change the mean


def pooled(model_name_or_path: str, prepare: Callable) -> Encoder:
    """The pooled output of a model, or the mean of its states where it has none."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(model_name_or_path).eval()

    @torch.inference_mode()
    def encode(values: list) -> np.ndarray:
        outputs = model(**prepare(values))
        vectors = getattr(outputs, "pooler_output", None)
        vectors = outputs.last_hidden_state.flatten(1, -2).mean(1) if vectors is None else vectors
        return vectors.flatten(1).float().numpy()

    return encode


def open_image(value):
    """An image of its bytes, of a path, or of what `datasets` stores."""
    from PIL import Image

    return Image.open(stream_of(value)).convert("RGB")


def open_sound(value, rate: int) -> np.ndarray:
    """(samples,) of a sound in one channel, at a rate in Hz."""
    import soundfile

    wave, found = soundfile.read(stream_of(value), dtype="float32", always_2d=True)
    wave = torch.from_numpy(wave).mean(1)
    if found != rate:
        length = max(round(len(wave) * rate / found), 1)
        wave = torch.nn.functional.interpolate(wave[None, None], size=length, mode="linear")[0, 0]
    return wave.numpy()


def stream_of(value):
    """What can be opened: a path as it is, bytes as a file."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    return io.BytesIO(value) if isinstance(value, bytes) else value


ENCODERS = {"text": text_encoder, "image": image_encoder, "audio": audio_encoder}


def add_vectors(table: pa.Table, name: str, vectors: pa.Array, file: Path) -> None:
    """Write the table with a column of vectors, as a whole or not at all."""
    table = table.append_column(name, vectors)
    write_whole(file, lambda stream: pyarrow.parquet.write_table(table, stream))


__all__ = ["ENCODERS", "add_vectors", "embed", "join_texts"]
