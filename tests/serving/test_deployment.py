"""The deployment files name options, paths and files that exist; the handler is called as Inference Endpoints do."""

import importlib.util
import json
import re
import shutil
import tomllib
from pathlib import Path

import pytest
import yaml
from services import ITEMS, save_shop
from transformers import HfArgumentParser, pipeline

from hf_rec.cli.serve import TOKEN, ServeArguments, name_model
from hf_rec.serving.settings import ServiceSettings

REPOSITORY = Path(__file__).resolve().parents[2]
DEPLOYMENT = REPOSITORY / "docs" / "deployment"
DOCKERFILE = (DEPLOYMENT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load((DEPLOYMENT / "compose.yaml").read_text(encoding="utf-8"))
DEPLOYED, SERVICE = yaml.safe_load_all((DEPLOYMENT / "kubernetes.yaml").read_text(encoding="utf-8"))
OPEN_PATHS = ("/health", "/ready")


def instruction(name: str) -> list:
    return json.loads(re.search(rf"^{name} (\[.*\])$", DOCKERFILE, re.MULTILINE)[1])


def parsed(arguments: list[str]) -> tuple[ServeArguments, ServiceSettings]:
    """What the entry point of the image reads of the arguments of a container."""
    program, command, *own = instruction("ENTRYPOINT")
    assert (program, command) == ("hf-rec", "serve")
    parser = HfArgumentParser((ServeArguments, ServiceSettings))
    return parser.parse_args_into_dataclasses(name_model([*own, *arguments]))


def test_the_image_installs_the_package_with_extras_that_exist_and_serves_on_its_port():
    extras = re.search(r"/source\[([\w,]+)\]", DOCKERFILE)[1].split(",")
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {*extras} <= {*project["optional-dependencies"]} and "serve" in extras
    sources = [source for line in re.findall(r"^COPY (.*) \S+$", DOCKERFILE, re.MULTILINE) for source in line.split()]
    assert {"pyproject.toml", "README.md", "hf_rec"} <= {*sources}
    assert all((REPOSITORY / source).exists() for source in sources)
    arguments, settings = parsed(instruction("CMD"))
    assert (arguments.model_name_or_path, arguments.host) == ("/model", "0.0.0.0")
    assert f"EXPOSE {arguments.port}" in DOCKERFILE
    assert str(Path(settings.sessions).parent) in re.findall(r"^VOLUME (\S+)$", DOCKERFILE, re.MULTILINE)
    version = re.search(r"^FROM python:([\d.]+)-slim$", DOCKERFILE, re.MULTILINE)[1]
    assert project["requires-python"] == f">={version}"


def test_compose_runs_the_image_with_options_that_exist_beside_a_redis_that_writes_to_the_disk():
    recommender, redis = COMPOSE["services"]["recommender"], COMPOSE["services"]["redis"]
    build = recommender["build"]
    assert (DEPLOYMENT / build["context"]).resolve() == REPOSITORY and (REPOSITORY / build["dockerfile"]).is_file()
    arguments, settings = parsed(recommender["command"])
    assert settings.watch and settings.sessions == "redis://redis:6379/0" and "redis" in COMPOSE["services"]
    assert recommender["ports"] == [f"{arguments.port}:{arguments.port}"]
    assert TOKEN in recommender["environment"]
    assert [volume.rpartition("}:")[2] for volume in recommender["volumes"]] == [f"{arguments.model_name_or_path}:ro"]
    assert f"127.0.0.1:{arguments.port}/ready" in recommender["healthcheck"]["test"][-1]
    assert redis["command"][1:] == ["--appendonly", "yes", "--appendfsync", "always"]


def test_kubernetes_asks_the_probes_that_need_no_token_and_gives_the_time_to_end():
    pod = DEPLOYED["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    arguments, settings = parsed(container["args"])
    assert container["ports"] == [{"name": "http", "containerPort": arguments.port}]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] in OPEN_PATHS and container[probe]["httpGet"]["port"] == "http"
    assert container["readinessProbe"]["httpGet"]["path"] == "/ready"  # Redis may be down
    assert container["livenessProbe"]["httpGet"]["path"] == "/health"  # and restarts would not help
    assert [variable["name"] for variable in container["env"]] == [TOKEN]
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == [arguments.model_name_or_path]
    assert pod["terminationGracePeriodSeconds"] > settings.timeout + 1
    labels = DEPLOYED["spec"]["template"]["metadata"]["labels"]
    assert DEPLOYED["spec"]["selector"]["matchLabels"] == SERVICE["spec"]["selector"] == labels
    assert DEPLOYED["spec"]["replicas"] > 1 and settings.sessions.startswith("redis://")


def test_the_handler_answers_as_inference_endpoints_call_it(tmp_path):
    folder = save_shop(tmp_path / "repository")
    shutil.copy(DEPLOYMENT / "handler.py", folder)
    spec = importlib.util.spec_from_file_location("handler", folder / "handler.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    endpoint = module.EndpointHandler(str(folder))
    recommend = pipeline("recommendation", model=folder)
    assert endpoint({"inputs": ITEMS[:2]}) == recommend(ITEMS[:2])
    several = [ITEMS[:2], {"item_ids": ITEMS[:1]}]
    answer = endpoint({"inputs": several, "parameters": {"top_k": 3}})
    assert answer == recommend(several, top_k=3)
    assert json.loads(json.dumps(answer)) == answer
    assert endpoint({"inputs": ITEMS[:2], "parameters": None}) == recommend(ITEMS[:2])
    with pytest.raises(ValueError, match='"inputs": history'):
        endpoint({"history": ITEMS})
