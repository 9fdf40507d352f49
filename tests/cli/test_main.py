"""The command as a whole: its help, and what a wrong call prints."""

import subprocess
import sys

import pyarrow.parquet
import pytest
from runs import country_log

from hf_rec.cli.main import COMMANDS, main

OPTIONS = {
    "train": [
        "--train_file",
        "--output_dir",
        "--event_columns",
        "--request_columns",
        "--objective",
        "--replace_items",
        "--max_steps",
        "--task",
        "--teacher",
    ],
    "update": ["--events_file", "--kafka_topic", "--output_dir", "--newest_share", "--min_targets", "--tolerance"],
    "prepare": ["--log", "--output_dir", "--engine", "--num_shards", "--filter", "--memory_limit", "--spark_master"],
    "evaluate": ["--model_name_or_path", "--train_file", "--split", "--include_seen", "--history_lengths", "--plot"],
    "recommend": ["--model_name_or_path", "--history", "--file", "--request", "--top_k", "--candidates"],
    "similar": ["--model_name_or_path", "--item_id", "--by", "--top_k"],
    "explain": [
        "--model_name_or_path",
        "--history",
        "--item",
        "--against",
        "--method",
        "--titles_file",
        "--output_file",
    ],
    "map-items": ["--model_name_or_path", "--titles_file", "--group_column", "--method", "--output_file"],
    "compress": [
        "--model_name_or_path",
        "--output_dir",
        "--item_codes",
        "--int8_layers",
        "--intermediate_size",
        "--dtype",
        "--train_file",
        "--teacher_weight",
    ],
    "export": ["--model_name_or_path", "--output_dir", "--top_k", "--quantize"],
    "add-items": ["--model_name_or_path", "--items_file", "--output_dir", "--start", "--remove_items"],
    "embed": ["--items_file", "--text_columns", "--image_column", "--audio_column", "--output_file", "--batch_size"],
    "space": ["--model_name_or_path", "--output_dir", "--items_file", "--title_column", "--push", "--private"],
    "serve": ["--model_name_or_path", "--port", "--sessions", "--watch", "--max_waiting", "--timeout", "HF_REC_TOKEN"],
    "federated": ["create", "server", "client", "simulate"],
    "demo": ["--output_dir", "--max_steps", "--seed"],
}


LABEL = ["--task", "classification", "--label_column"]


@pytest.fixture(scope="module")
def log_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("shop") / "log.parquet"
    pyarrow.parquet.write_table(country_log(num_users=20), path)
    return path


def failure(*arguments: object) -> str:
    """The message of a call that fails; it is printed to the standard error output, and the exit code is 1."""
    with pytest.raises(SystemExit) as exit:
        main([*map(str, arguments)])
    assert isinstance(exit.value.code, str), exit.value.code
    return exit.value.code


def test_the_help_lists_the_commands(capsys):
    with pytest.raises(SystemExit, match="^0$"):
        main(["--help"])
    printed = capsys.readouterr().out
    assert OPTIONS.keys() == COMMANDS.keys()
    for command, text in COMMANDS.items():
        assert command in printed and text in printed


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_lists_its_options(command, capsys):
    with pytest.raises(SystemExit, match="^0$"):
        main([command, "--help"])
    printed = capsys.readouterr().out
    assert f"hf-rec {command}" in printed
    assert [option for option in OPTIONS[command] if option not in printed] == []


@pytest.mark.parametrize("arguments", [[], ["trian"], ["train", "--objective", "mlm", "--train_file", "x"]])
def test_unknown_commands_and_choices_are_named_in_the_last_line(arguments, capsys):
    with pytest.raises(SystemExit, match="^2$"):
        main(arguments)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(("hf-rec: error", "hf-rec train: error"))
    assert all(word in last for word in arguments[:1] if word == "trian")
    assert "mlm" not in arguments or "'mlm'" in last and "next-item" in last


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ([], ["--train_file", "--dataset_name"]),
        (["--train_file", "nowhere.parquet"], ["no file", "nowhere.parquet"]),
        (["--train_file", "LOG", "--dataset_name", "ml-1m"], ["--train_file", "--dataset_name"]),
        (["--train_file", "LOG", "--item_column", "sku"], ["no column ['sku']", "'user_id'", "item_column"]),
        (["--train_file", "LOG", "--event_columns", "genre"], ["no column ['genre']", "event_columns"]),
        (["--train_file", "LOG", "--event_columns", "timestamps"], ["timestamps"]),
        (["--train_file", "LOG", "--min_user_count", "99"], ["nothing is left", "min_user_count"]),
        (["--train_file", "LOG", "--hidden_size", "15"], ["hidden_size", "15"]),
        (["--train_file", "LOG", "--objective", "cloze", "--mask_probability", "1.5"], ["mask_probability", "1.5"]),
        (["--train_file", "LOG", "--mask_probability", "0.2"], ["mask_probability", "--objective cloze"]),
        (["--train_file", "LOG", "--teacher_weight", "0.2"], ["--teacher_weight", "need --teacher"]),
        (["--train_file", "LOG", "--label_of", "user"], ["--label_of", "--task classification"]),
        (["--train_file", "LOG", "--label_probability", "1"], ["--label_probability", "--task classification"]),
        (["--train_file", "LOG", *LABEL, "country", "--streaming"], ["--streaming", "no options of a classifier"]),
        (["--train_file", "LOG", *LABEL, "country", "--loss_type", "gbce"], ["--loss_type", "no options"]),
        (["--train_file", "LOG", *LABEL, "country", "--window_probability", "1"], ["--window_probability"]),
        (
            ["--train_file", "LOG", *LABEL, "country", "--label_of", "next_event", "--label_probability", "1"],
            ["--label_probability", "next_event"],
        ),
        (["--train_file", "PREPARED", *LABEL, "country"], ["PREPARED", "no labels"]),
        (["--train_file", "PREPARED", "--users_file", "LOG"], ["--users_file", "rows of the log"]),
        (["--train_file", "LOG", "--model_name_or_path", "EMPTY"], ["EMPTY", "no recommender"]),
        (["--train_file", "LOG", "--model_name_or_path", "nowhere"], ["huggingface.co"]),
        (["--train_file", "LOG", "--no_such_option", "1"], ["--no_such_option"]),
        (["--train_file", "LOG", "--task", "classification"], ["--label_column"]),
        (["--train_file", "LOG", "--label_column", "country"], ["--label_column", "--task classification"]),
        (["--train_file", "LOG", *LABEL, "stars > 3"], ["'stars > 3'", "'country'"]),
        (["--train_file", "LOG", *LABEL, "1 = 1"], ["'1 = 1'", "always True", "train"]),
        (
            ["--train_file", "LOG", *LABEL, "country", "--hold_out_items", "0.1"],
            ["--hold_out_items", "classifier", "event"],
        ),
        (
            ["--train_file", "LOG", *LABEL, "x", "--label_of", "user", "--users_file", "LOG", "--split", "temporal"],
            ["--split", "label of the user"],
        ),
        (["--train_file", "LOG", *LABEL, "country", "--label_of", "user"], ["--users_file"]),
        (
            ["--train_file", "LOG", *LABEL, "country", "--label_of", "user", "--users_file", "LOG"],
            ["table of users", "repeat"],
        ),
        (["--dataset_name", "ml-1m", "--user_column", "u"], ["ml-1m", "user_column"]),
    ],
)
def test_a_wrong_training_call_is_one_line_that_says_what_to_do(options, named, log_file, tmp_path):
    places = {"LOG": str(log_file), "EMPTY": str(tmp_path), "PREPARED": str(tmp_path / "prepared")}
    if "PREPARED" in options:
        main(["prepare", str(log_file), "--output_dir", places["PREPARED"]])
    options = [places.get(option, option) for option in options]
    message = failure("train", *options, "--output_dir", tmp_path / "out", "--use_cpu", "true")
    assert message.startswith("hf-rec train: ")
    assert "\n" not in message.strip()
    assert all(places.get(word, word) in message for word in named), message
    assert not list(tmp_path.glob("out/*.safetensors"))


@pytest.mark.parametrize(
    ("command", "options", "named"),
    [
        ("recommend", ["--model_name_or_path", "x"], ["--history", "--file"]),
        ("recommend", ["--model_name_or_path", "x", "--history", "a", "--file", "b"], ["--history", "--file"]),
        ("recommend", ["--model_name_or_path", "nowhere", "--history", "a"], ["huggingface.co"]),
        (
            "recommend",
            ["--model_name_or_path", "x", "--history", "a", "--titles_file", "TITLES", "--title_column", "name"],
            ["no column ['name']", "'title'", "--title_column"],
        ),
        ("evaluate", ["--model_name_or_path", "x"], ["--train_file", "--dataset_name"]),
        ("prepare", ["nowhere.parquet", "--output_dir", "out"], ["no file nowhere.parquet"]),
        ("prepare", ["TITLES"], ["a log", "--output_dir"]),
        ("prepare", ["TITLES", "--output_dir", "out"], ["'timestamp'", "'user_id'", "'title'", "user_column"]),
        ("prepare", ["TITLES", "--output_dir", "out", "--users_file", "TITLES"], ["--users_file", "rows of the log"]),
        ("serve", ["nowhere"], ["nowhere cannot be served"]),
        ("serve", ["x", "--max_batch", "0"], ["max_batch", "0"]),
        ("export", ["--model_name_or_path", "x", "--output_dir", "FULL"], ["FULL", "empty"]),
        ("export", ["--model_name_or_path", "x", "--output_dir", "out", "--top_k", "0"], ["top_k", "0"]),
    ],
)
def test_a_wrong_call_of_another_command_is_one_line_too(command, options, named, tmp_path):
    places = {"FULL": str(tmp_path), "TITLES": str(tmp_path / "titles.csv")}
    (tmp_path / "titles.csv").write_text("item_id,title\na,Tea\n")
    options = [places.get(option, option) for option in options]
    message = failure(command, *options)
    assert message.startswith(f"hf-rec {command}: ")
    assert "\n" not in message.strip()
    assert all(places.get(word, word) in message for word in named), message


@pytest.mark.slow
def test_the_shell_gets_the_line_and_the_exit_code(tmp_path):
    command = [sys.executable, "-m", "hf_rec.cli.main", "train", "--train_file", "nowhere.csv", "--output_dir", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == "hf-rec train: no file nowhere.csv"
    assert "Traceback" not in done.stderr and not done.stdout
