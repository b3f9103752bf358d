"""Measures this package and its peers side by side.

``harness`` runs models on runners, each in a worker process of its own, and keeps the results in a
file from which an interrupted run goes on; ``runners`` is the table of runners; ``tables`` and
``page`` show results.
"""

from __future__ import annotations
