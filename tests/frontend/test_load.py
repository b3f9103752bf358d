from __future__ import annotations

import pytest

from smartmem_tvm.errors import ModelError
from smartmem_tvm.frontend import import_model


def test_zoo_name_with_and_without_size():
    short = import_model("zoo:swin")
    assert short.name == "swin-full"
    assert short.inputs[0].shape == (1, 3, 224, 224)
    assert short.outputs[0].name == "logits"
    assert import_model("zoo:swin/full", shapes={"input": (1, 3, 224, 224)}).name == "swin-full"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("zoo:swine", r"no model 'swine': it has .*convnext.* swin, .*vit"),
        ("zoo:swin/huge", "no size 'huge' of swin: it has .*full"),
        ("zoo:", "no model ''"),
        (3, "a model cannot be read from int"),
        (None, "a model cannot be read from NoneType"),
    ],
)
def test_what_is_no_model(source, message):
    with pytest.raises(ModelError, match=message):
        import_model(source)
