"""Requests that schemathesis generates from the OpenAPI description of the service itself."""

import pytest
from hypothesis import HealthCheck, given, settings
from services import FEATURES, save_shop

pytest.importorskip("fastapi")
pytest.importorskip("schemathesis")

import schemathesis
from schemathesis import checks

from hf_rec.serving.app import create_app
from hf_rec.serving.models import ModelSource
from hf_rec.serving.settings import ServiceSettings

CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]
PATHS = ("/recommend", "/similar", "/sessions/{session_id}/events", "/sessions/{session_id}", "/ready", "/metrics")


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    from starlette.testclient import TestClient

    folder = tmp_path_factory.mktemp("fuzz")
    source = ModelSource(save_shop(folder / "shop", features=FEATURES))
    app = create_app(source, ServiceSettings(sessions=str(folder / "sessions.sqlite")))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield schemathesis.openapi.from_asgi("/openapi.json", app), client


def fuzz(service, path: str, examples: int) -> None:
    """Ask each method of a path."""
    schema, client = service
    for operation in schema[path].values():
        statuses = set()

        @given(case=operation.as_strategy())
        @settings(max_examples=examples, suppress_health_check=[*HealthCheck], database=None)
        def ask(case):
            statuses.add(case.call_and_validate(session=client, checks=CHECKS).status_code)  # noqa: B023

        ask()
        assert min(statuses) < 500


@pytest.mark.parametrize("path", PATHS)
def test_no_generated_request_fails(service, path):
    fuzz(service, path, 25)


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
def test_none_of_hundreds_of_generated_requests_fails(service, path):
    fuzz(service, path, 300)
