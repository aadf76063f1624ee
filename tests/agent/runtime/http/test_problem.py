"""RFC 9457 documents."""

import json

import pytest

from definable.server.problem import Problem, send_problem


def test_a_problem_has_the_phrase_of_its_status_as_title():
    assert json.loads(Problem(404, "No such run.").body()) == {
        "title": "Not Found",
        "status": 404,
        "detail": "No such run.",
    }


def test_a_status_without_a_phrase_has_a_title_too():
    assert Problem(499).title == "Client Error"
    assert Problem(599).title == "Server Error"


def test_extension_members_stand_beside_the_standard_ones():
    errors = [{"field": "input", "message": "is required"}]
    document = json.loads(Problem(422, "Bad fields.", title="Invalid", errors=errors).body())
    assert document == {"title": "Invalid", "status": 422, "detail": "Bad fields.", "errors": errors}


def test_any_text_can_be_said():
    assert json.loads(Problem(400, "grüezi \ud800").body())["detail"].startswith("grüezi")


@pytest.mark.parametrize("status", [200, 302, 600, 0])
def test_only_an_error_status_is_a_problem(status):
    with pytest.raises(ValueError, match=str(status)):
        Problem(status)


def test_an_extension_cannot_replace_a_standard_member():
    with pytest.raises(ValueError, match="type"):
        Problem(400, type="x")


def test_its_text_names_what_happened():
    assert str(Problem(429, "Too fast.")) == "429 Too Many Requests: Too fast."
    assert str(Problem(429)) == "429 Too Many Requests"


@pytest.mark.anyio
@pytest.mark.parametrize("options", [{}, {"close": False}, {"close": True}])
async def test_it_is_sent_as_one_asgi_response(options):
    sent = []

    async def send(message):
        sent.append(message)

    problem = Problem(503, "Later.", headers=[(b"retry-after", b"5")])
    await send_problem(send, problem, **options)
    start, body = sent
    assert (start["status"], body["body"]) == (503, problem.body())
    headers = dict(start["headers"])
    assert headers[b"content-type"] == b"application/problem+json"
    assert headers[b"content-length"] == b"%d" % len(problem.body())
    assert headers[b"retry-after"] == b"5"
    assert headers.get(b"connection") == (b"close" if options.get("close") else None)
