"""The exceptions of onnxruntime, which have no base class of their own."""

from __future__ import annotations

from onnxruntime.capi import onnxruntime_pybind11_state as _state

ORT_ERRORS: tuple[type[Exception], ...] = (
    _state.EPFail,
    _state.Fail,
    _state.InvalidArgument,
    _state.InvalidGraph,
    _state.InvalidProtobuf,
    _state.NoSuchFile,
    _state.NotImplemented,
    _state.RuntimeException,
)
