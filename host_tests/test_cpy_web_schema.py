"""Schemathesis on the OpenAPI description: whatever is sent, the server does not fail."""

import contextlib

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup

from fakes.postgres import Postgres
from fakes.web import FakeWeb

_EXAMPLES = 8
# streams that never end; the log-out, after which everything else would be refused
_LEFT_OUT = ("/feed", "/logout")


@pytest.fixture(scope="module", params=("SQLite", "PostgreSQL"))
def web(request, tmp_path_factory):
    server = Postgres() if request.param == "PostgreSQL" else None
    made = FakeWeb(tmp_path_factory.mktemp("schema"), server and server.another())

    @contextlib.asynccontextmanager
    async def lifespan(_app):  # it would begin and end with each request
        yield

    made.app.router.lifespan_context = lifespan
    yield made
    made.close()
    if server:
        server.stop()


def _operations(schema):
    return [result.ok() for result in schema.get_all_operations()
            if not result.ok().path.endswith(_LEFT_OUT)]


def _try(operation, headers, client):
    """Send what fits the description and what does not; returns how many requests that was."""
    sent = []

    @settings(max_examples=_EXAMPLES, derandomize=True, database=None, deadline=None,
              phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy())
    def run(case):
        for name, value in (("token", client.token), ("device", "cp-1"), ("sid", "cp-1-000001")):
            if name in case.path_parameters and len(sent) % 2:
                case.path_parameters[name] = value  # what is there, every other time
        answer = case.call(headers=headers)
        sent.append(answer.status_code)
        case.validate_response(answer, checks=[not_a_server_error])

    run()
    return sent


class _Client:
    def __init__(self, web):
        client = web.client("ann")
        self.headers = {"X-CSRF-Token": client.headers["X-CSRF-Token"],
                        "Cookie": "evmeter=" + client.cookies["evmeter"]}
        self.token = client.post("/api/v1/chargers/cp-1/links", json={"sid": web.done}
                                 ).json()["url"].rsplit("/", 1)[1]


def test_no_request_makes_the_server_fail(web):
    client = _Client(web)
    operations = _operations(schemathesis.openapi.from_asgi("/api/openapi.json", web.app))
    assert len(operations) > 20
    reached = []
    for operation in operations:
        reached += _try(operation, client.headers, client)
    assert len(reached) > 5 * len(operations)
    assert {200, 201, 404, 422} <= set(reached)  # not everything was refused at the door


def test_a_server_that_fails_is_noticed(web):
    client = _Client(web)

    def broken(site: str):
        raise KeyError(site)

    web.app.get("/api/v1/broken/{site}")(broken)
    web.app.openapi_schema = None
    schema = schemathesis.openapi.from_asgi("/api/openapi.json", web.app)
    (operation,) = [each for each in _operations(schema) if "broken" in each.path]
    with pytest.raises((FailureGroup, KeyError)):
        _try(operation, client.headers, client)
