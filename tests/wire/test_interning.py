"""Equal definitions are one object; the bounds hold; what is invalid is never kept."""

from __future__ import annotations

import pytest

from bulletin.core import limits
from bulletin.core.errors import TaskError
from bulletin.wire import interning
from bulletin.wire.interning import Definitions
from bulletin.wire.proto import bbs_pb2
from bulletin.wire.tasks import summarise


def make_request(guid: str = "g", domain: str = "d", annotation: str = "") -> bbs_pb2.DesireTaskRequest:
    request = bbs_pb2.DesireTaskRequest(task_guid=guid, domain=domain)
    request.task_definition.root_fs = "docker:///busybox"
    request.task_definition.annotation = annotation
    request.task_definition.action.run_action.path = "sh"
    request.task_definition.action.run_action.user = "root"
    return request


def test_equal_definitions_are_one_object_and_say_what_summarise_says() -> None:
    definitions = Definitions()
    first, second = definitions.take(make_request("a")), definitions.take(make_request("b", "e"))
    assert first is second
    assert first == summarise(make_request().task_definition)
    assert definitions.take(make_request(annotation="other")) != first
    assert len(definitions) == 2


@pytest.mark.parametrize(
    ("guid", "domain", "text"),
    [
        ("a b", "d", "Invalid field: task_guid"),
        ("a", "", "Invalid field: domain"),
        ("", "", "Invalid field: task_guid, Invalid field: domain"),
    ],
)
def test_a_known_definition_does_not_excuse_the_rest(guid: str, domain: str, text: str) -> None:
    definitions = Definitions()
    definitions.take(make_request())
    with pytest.raises(TaskError, match=f"^{text}$"):
        definitions.take(make_request(guid, domain))
    assert definitions.take(make_request("b")) is definitions.take(make_request("c")), "and it stays known"


def test_an_invalid_definition_is_refused_each_time() -> None:
    definitions = Definitions()
    request = make_request()
    request.task_definition.memory_mb = -1
    absent = bbs_pb2.DesireTaskRequest(task_guid="g", domain="d")
    for _ in range(2):
        with pytest.raises(TaskError, match="^Invalid field: memory_mb$"):
            definitions.take(request)
        with pytest.raises(TaskError, match="^Invalid field: task_definition$"):
            definitions.take(absent)
    assert len(definitions) == 0


def test_the_least_used_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interning, "SHARED_DEFINITIONS_MAX", 2)
    definitions = Definitions()
    one, two = definitions.take(make_request(annotation="1")), definitions.take(make_request(annotation="2"))
    assert definitions.take(make_request(annotation="1")) is one
    definitions.take(make_request(annotation="3"))
    assert len(definitions) == 2
    assert definitions.take(make_request(annotation="1")) is one
    assert definitions.take(make_request(annotation="2")) is not two


def test_bytes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interning, "SHARED_DEFINITIONS_BYTES_MAX", 10_000)
    definitions = Definitions()
    for number in range(20):
        definitions.take(make_request(annotation=f"{number:04000}"))
    assert len(definitions) == 2


def test_a_large_definition_is_not_kept() -> None:
    definitions = Definitions()
    request = make_request()
    request.task_definition.environment_variables.add(name="A", value="x" * limits.SHARED_DEFINITION_BYTES_MAX)
    assert definitions.take(request) == definitions.take(request)
    assert len(definitions) == 0
