"""What a MetaSchedule worker process runs first."""

from __future__ import annotations

from .. import runtime


def load_runtime() -> None:
    """Load the OpenCL runtime into this process.

    MetaSchedule builds and measures candidates in processes of their own, where importing TVM
    alone brings no OpenCL device. Give this function to both::

        LocalBuilder(initializer=load_runtime)
        LocalRunner(initializer=load_runtime)
    """
    runtime.load()
