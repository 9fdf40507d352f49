"""The benchmark of the service, on a small model and for seconds."""

import re
import shutil
import sys

import benchmark_serving
import pytest
from services import save_shop

pytestmark = pytest.mark.slow


def test_the_benchmark_prints_a_row_for_each_server_and_no_request_fails(tmp_path, monkeypatch, capsys):
    if shutil.which("wrk") is None:
        pytest.skip("needs wrk")
    pytest.importorskip("onnxscript")
    folder = save_shop(tmp_path / "shop")
    options = ["--seconds", "1", "--length", "7", "--rate", "20", "--soak", "0.02", "--bodies", "50"]
    monkeypatch.setattr(sys, "argv", ["benchmark_serving.py", "--model_name_or_path", str(folder), *options])
    benchmark_serving.main()
    printed = capsys.readouterr().out
    number = r" [\d.]+ \|"
    row = rf"^\| ([^|]+) \| ([\d,]+) \|{number}{number} (\d+) \|{number}{number}$"
    rows = re.findall(row, printed, re.MULTILINE)
    assert [name for name, _, _ in rows] == [
        "plain FastAPI and pipeline",
        "`hf-rec serve`",
        "`hf-rec serve`, ONNX",
        "`hf-rec serve`, ONNX, an event and a list in turn",
    ]
    assert all(int(rate.replace(",", "")) > 20 for _, rate, _ in rows)
    assert {failed for _, _, failed in rows} == {"0"}
    assert len(re.findall(r"0 failed; memory [\d,]+ MB before, [\d,]+ MB after", printed)) == 2
