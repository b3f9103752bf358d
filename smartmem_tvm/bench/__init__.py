"""Measures this package and its peers side by side.

``harness`` runs models on runners, each in a worker process of its own: ``preparation`` compiles
them into the folder of ``work``, ``measure`` times what is there. The results are in a file from
which an interrupted run goes on. ``runners`` is the table of runners; ``tables``, ``page`` and
``plots`` show results.
"""

from __future__ import annotations
