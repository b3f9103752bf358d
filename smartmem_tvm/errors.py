"""Errors that a user can act on.

Every message names the operator, file or device, the offending value, the limit and the remedy.
The command line prints the message alone and exits with ``exit_code``; anything that is not a
:class:`SmartMemError` is a defect of this package and shows its traceback.

The classes are registered with TVM, so that one raised inside a pass or by the C++ runtime reaches
the caller as itself.
"""

from __future__ import annotations

import tvm_ffi


@tvm_ffi.register_error
class SmartMemError(Exception):
    """A mistake in what was asked or in what was given; the base of all errors below."""

    exit_code = 2


@tvm_ffi.register_error
class ModelError(SmartMemError):
    """A model that cannot be read or holds something that cannot be compiled."""


@tvm_ffi.register_error
class ArtifactError(SmartMemError):
    """An artefact that is damaged, incomplete or from another version."""


@tvm_ffi.register_error
class DeviceError(SmartMemError):
    """A device, driver or kernel refused: raised by the OpenCL runtime and by device selection."""


# The kind under which the C++ runtime throws.
tvm_ffi.register_error("SmartMemDeviceError", DeviceError)
