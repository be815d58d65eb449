from __future__ import annotations

import pytest
from hypothesis import given
from wire.strategies import action_trees, nested, run_action

from bulletin.core import actions
from bulletin.core.errors import TaskError
from bulletin.core.limits import ACTION_COUNT_MAX, ACTION_DEPTH_MAX
from bulletin.wire.actions import TOO_DEEP, TOO_MANY, decode_action, encode_action
from bulletin.wire.proto import bbs_pb2 as p

RUN = actions.RunAction("sh", "root")


@given(action_trees)
def test_what_is_encoded_is_decoded(tree):
    message = encode_action(tree)
    assert decode_action(message) == tree
    assert decode_action(p.Action.FromString(message.SerializeToString())) == tree


@pytest.mark.parametrize(
    ("action", "text"),
    [
        (RUN, 'run_action { path: "sh" user: "root" }'),
        (actions.DownloadAction("f", "t", "u", "a", "k", "l", "md5", "v"), None),
        (actions.UploadAction("f", "t", "u", "a", "l"), None),
        (actions.TimeoutAction(RUN, 5, "l"), None),
        (actions.EmitProgressAction(RUN, "s", "ok", "f", "l"), None),
        (actions.TryAction(RUN, "l"), None),
        (actions.SerialAction((RUN, RUN), "l"), None),
        (actions.ParallelAction((RUN,), "l"), None),
        (actions.CodependentAction((RUN,), "l"), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_kind_has_its_member(action, text):
    message = encode_action(action)
    (descriptor, inner), *others = message.ListFields()
    assert others == []
    kind = type(action).__name__.removesuffix("Action")
    assert type(inner).__name__ == f"{kind}Action"
    assert descriptor.name.replace("_", "") == f"{kind}Action".lower()
    assert decode_action(message) == action
    if text is not None:
        assert " ".join(str(message).split()) == text


def test_lowest_field_number_counts():
    both = p.Action(
        run_action=p.RunAction(path="sh"), try_action=p.TryAction(), download_action=p.DownloadAction(to="t")
    )
    assert decode_action(both) == actions.DownloadAction("", "t", "")


def test_a_limit_of_zero_is_not_an_absent_one():
    zero = actions.RunAction("sh", "root", resource_limits=actions.ResourceLimits(nofile=0))
    message = encode_action(zero)
    assert message.run_action.resource_limits.SerializeToString().hex() == "0800"
    assert decode_action(message) == zero
    assert not encode_action(RUN).run_action.HasField("resource_limits")
    empty = p.Action(run_action=p.RunAction(path="sh", user="root", resource_limits=p.ResourceLimits()))
    assert decode_action(empty) == RUN


@pytest.mark.parametrize(
    "action", [p.Action(), p.Action(try_action=p.TryAction()), p.Action(try_action=p.TryAction(action=p.Action()))]
)
def test_an_empty_wrapper_is_refused(action):
    with pytest.raises(TaskError, match="Invalid field: action, Invalid field: inner-action"):
        decode_action(action)


def test_depth():
    deepest = nested(ACTION_DEPTH_MAX)
    assert encode_action(decode_action(deepest)) == deepest
    with pytest.raises(TaskError, match=TOO_DEEP):
        decode_action(nested(ACTION_DEPTH_MAX + 1))
    tree: actions.Action = decode_action(deepest)
    with pytest.raises(TaskError, match=TOO_DEEP):
        encode_action(actions.TryAction(tree))


def test_the_deepest_tree_survives_the_parser_in_every_message_that_holds_it():
    request = p.DesireTaskRequest(task_definition=p.TaskDefinition(action=nested(ACTION_DEPTH_MAX)))
    assert p.DesireTaskRequest.FromString(request.SerializeToString()) == request


def test_count():
    full = p.Action(serial_action=p.SerialAction(actions=[run_action()] * (ACTION_COUNT_MAX - 1)))
    assert len(decode_action(full).actions) == ACTION_COUNT_MAX - 1
    full.serial_action.actions.append(run_action())
    with pytest.raises(TaskError, match=TOO_MANY):
        decode_action(full)
