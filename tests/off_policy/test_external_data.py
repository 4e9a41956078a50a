"""ONNX files that keep numbers in other files are found, wherever their tensors are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from offrl.errors import RequestError
from offrl.off_policy.external_data import keeps_data_elsewhere
from offrl.off_policy.target_policies import OnnxPolicy

onnx = pytest.importorskip("onnx")
helper = pytest.importorskip("onnx.helper")


def tensor(elsewhere: str | None) -> object:
    made = onnx.numpy_helper.from_array(np.arange(16, dtype=np.float32).reshape(4, 4), "w")
    if elsewhere is not None:
        onnx.external_data_helper.set_external_data(made, elsewhere)
        made.ClearField("raw_data")
    return made


def model(elsewhere: str | None, place: str) -> bytes:
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 4]) for name in ("observation", "action")]
    inner = helper.make_graph([helper.make_node("Identity", ["w"], ["x"])], "inner", [], [ends[0]], [tensor(elsewhere)])
    nodes = {
        "initializer": [],
        "attribute": [helper.make_node("Constant", [], ["w"], value=tensor(elsewhere))],
        "attributes": [helper.make_node("Own", [], ["w"], values=[tensor(None), tensor(elsewhere)])],
        "subgraph": [helper.make_node("If", ["c"], ["w"], then_branch=inner, else_branch=inner)],
    }[place]
    nodes.append(helper.make_node("MatMul", ["observation", "w"], ["action"]))
    graph = helper.make_graph(
        nodes, "policy", ends[:1], ends[1:], [tensor(elsewhere)] if place == "initializer" else []
    )
    return bytes(helper.make_model(graph).SerializeToString())


@pytest.mark.parametrize("place", ["initializer", "attribute", "attributes", "subgraph"])
def test_tensors_in_other_files_are_found(place: str) -> None:
    assert keeps_data_elsewhere(model("secret.bin", place))
    assert not keeps_data_elsewhere(model(None, place))


def test_such_a_file_is_not_opened(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "secret.bin").write_bytes(bytes(64))
    (tmp_path / "policy.onnx").write_bytes(model("secret.bin", "initializer"))
    with pytest.raises(RequestError, match="keeps numbers in another file"):
        OnnxPolicy(tmp_path / "policy.onnx")


@pytest.mark.parametrize("content", [b"nothing", b"\x3a\xff\x01", b"\xff" * 12])
def test_what_is_no_protocol_buffer_is_a_value_error(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"a field|a number"):
        keeps_data_elsewhere(content)
