import pyarrow.parquet
import pytest
from transformers import pipeline

from hf_rec.cli.main import main
from hf_rec.data.demo_log import shop_log
from hf_rec.data.sequences import build_sequences
from hf_rec.data.splits import leave_one_out
from hf_rec.training.run import evaluate_recommender


def demo(folder, **options: object) -> None:
    given = {"output_dir": folder, "max_steps": 30, "num_users": 120} | options
    main(["demo", *(str(word) for name, value in given.items() for word in (f"--{name}", value))])


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The folder of a demo, in which other files were before."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "thesis.txt").write_text("precious")
    demo(folder, max_steps=2)
    return folder


def test_a_demo_goes_the_whole_way(shown, capsys):
    assert sorted(path.name for path in shown.iterdir()) == [
        "items.parquet",
        "purchases.parquet",
        "shop-recommender",
        "thesis.txt",
    ]
    purchases, items = shop_log(120)
    assert pyarrow.parquet.read_table(shown / "purchases.parquet").equals(purchases)
    assert pyarrow.parquet.read_table(shown / "items.parquet").equals(items)
    capsys.readouterr()
    demo(shown, max_steps=30)  # again, with other settings
    printed = capsys.readouterr().out
    results = evaluate_recommender(str(shown / "shop-recommender"), leave_one_out(build_sequences(purchases)))
    for name in ("popularity", "last-item Markov", "shop-recommender"):
        assert f"{results[name]['ndcg@10']:.4f}" in printed
    shopper = leave_one_out(build_sequences(purchases))["test"][0]
    titles = dict(zip(items["item_id"].to_pylist(), items["title"].to_pylist(), strict=True))
    recommended = pipeline("recommendation", model=str(shown / "shop-recommender"))(shopper["item_ids"], top_k=5)
    for item in [*shopper["item_ids"], shopper["target_id"], *(entry["item_id"] for entry in recommended)]:
        assert titles[item] in printed
    assert (shown / "thesis.txt").read_text() == "precious"
    assert "hf-rec demo" in (shown / "shop-recommender" / "README.md").read_text()


@pytest.mark.parametrize(
    ("name", "content"),
    [("thesis.txt", "precious"), ("README.md", "a generated shop log"), ("config.json", '{"model_type": "bert"}')],
)
def test_a_folder_that_is_not_a_demo_stays(tmp_path, name, content):
    folder = tmp_path / "shop-recommender"
    folder.mkdir()
    (folder / name).write_text(content)
    with pytest.raises(SystemExit, match=r"hf-rec demo: .*shop-recommender.*(another folder|--output_dir)"):
        demo(tmp_path)
    assert [path.name for path in folder.iterdir()] == [name]
    assert (folder / name).read_text() == content
