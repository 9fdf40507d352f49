"""Opens saved recommenders with stock Transformers and prints what they answer. As a script, it blocks `hf_rec`."""

import argparse
import ast
import json
import re
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, pipeline

HISTORIES = [
    ["item-3", "green tea", "[MASK]", "ice [PAD] set"],
    ["never sold", "</s>", "été", "0"],
    [f"item-{number}" for number in range(12)],  # longer than the input of the model
]
# For a model with the features rating, country and time_gap.
REQUESTS = [
    {
        "item_ids": ["item-3", "never sold", "green tea"],
        "rating": ["3", "1", None],
        "country": ["fr", "fr", "at"],
        "timestamps": [100, 200, 5_000],
        "request": {"time": 90_000, "country": "fr"},
    },
    {"item_ids": ["item-3", "green tea"], "request": {"country": "at"}},
    {"item_ids": [], "request": {"country": "fr", "time": 7}},
]


class Blocker(MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):  # noqa: ARG002
        if fullname.partition(".")[0] == "hf_rec":
            raise ModuleNotFoundError(f"{fullname} is blocked", name=fullname)


def answers(name: str, **kwargs) -> dict:
    """Answers of the tokenizer, the models and the pipeline of a folder or repository, and their classes.

    Args:
        name: Folder or repository.
        kwargs: For `from_pretrained` of the models and for `pipeline`.
    """
    token = {key: value for key, value in kwargs.items() if key == "token"}
    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **token)
    inputs = tokenizer(HISTORIES, is_split_into_words=True, truncation=True, padding=True, return_tensors="pt")
    config, base = AutoConfig.from_pretrained(name, **kwargs), AutoModel.from_pretrained(name, **kwargs)
    model = (AutoModelForCausalLM if config.is_decoder else AutoModelForMaskedLM).from_pretrained(name, **kwargs)
    with torch.inference_mode():
        states, logits = base(**inputs).last_hidden_state, model(**inputs).logits
    recommend = pipeline("recommendation", model=name, **kwargs)
    generated = model.generate(**inputs, max_new_tokens=3, do_sample=False).tolist() if config.is_decoder else None
    parts = (config, base, model, recommend, recommend.model)
    return {
        "tokenizer": class_name(tokenizer),
        "classes": [class_name(part) for part in parts],
        "input_ids": inputs["input_ids"].tolist(),
        "states": states.tolist(),
        "logits": logits.tolist(),
        "generated": generated,
        "recommended": recommend(HISTORIES, top_k=5),
        "requested": recommend(REQUESTS, top_k=5) if config.features else None,
    }


def class_name(thing) -> str:
    return f"{type(thing).__module__}.{type(thing).__name__}"


def refusals(name: str) -> dict[str, str | None]:
    """The error of each way to open a folder without trust; None where it opened."""
    raised = {}
    for trust in ({}, {"trust_remote_code": False}):
        for way, load in {
            "config": AutoConfig.from_pretrained,
            "model": AutoModel.from_pretrained,
            "masked model": AutoModelForMaskedLM.from_pretrained,
            "pipeline": lambda name, **kwargs: pipeline("recommendation", model=name, **kwargs),
        }.items():
            try:
                load(name, **trust)
                raised[f"{way} {trust}"] = None
            except ValueError as error:
                raised[f"{way} {trust}"] = str(error)
    return raised


def train(name: str, folder: Path) -> list:
    """Take one step, save the model and its pipeline to `folder`, and return the new logits for `HISTORIES`."""
    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    model = AutoModelForMaskedLM.from_pretrained(name, trust_remote_code=True)
    inputs = tokenizer(HISTORIES, is_split_into_words=True, truncation=True, padding=True, return_tensors="pt")
    labels = inputs["input_ids"].clone()
    labels[:, :-1] = -100
    model(**inputs, labels=labels).loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")

    recommend = pipeline("recommendation", model=name, trust_remote_code=True)
    recommend.model.load_state_dict(model.state_dict())
    recommend.save_pretrained(folder / "pipeline")
    with torch.inference_mode():
        return model(**inputs).logits.tolist()


def follow_card(folder: str) -> list:
    """Run the Python code of a model card and return the value of its last line."""
    (code,) = re.findall(r"```python\n(.*?)```", Path(folder, "README.md").read_text(encoding="utf-8"), re.DOTALL)
    *lines, last = ast.parse(code).body
    names = {}
    exec(compile(ast.Module(lines, []), "README.md", "exec"), names)
    return eval(compile(ast.Expression(last.value), "README.md", "eval"), names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--refuse", metavar="NAME", help="open this without trust")
    parser.add_argument("--train", nargs=2, metavar=("NAME", "FOLDER"), help="train this and save it there")
    parser.add_argument("--read", nargs="*", default=[], metavar="NAME", help="open these with trust")
    parser.add_argument("--card", metavar="FOLDER", help="run the code of this folder's card")
    options = parser.parse_args()
    sys.meta_path.insert(0, Blocker())

    report = {}
    if options.refuse:
        report["refused"] = refusals(options.refuse)
        report["ran"] = [name for name in sys.modules if name.startswith("transformers_modules.")]
    if options.train:
        report["trained"] = train(options.train[0], Path(options.train[1]))
    report["read"] = {name: answers(name, trust_remote_code=True) for name in options.read}
    if options.card:
        report["card"] = follow_card(options.card)
    report["package"] = [name for name in sys.modules if name.partition(".")[0] == "hf_rec"]
    print()  # ends the questions that Transformers asks
    print(json.dumps(report))


if __name__ == "__main__":
    main()
