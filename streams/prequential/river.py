"""The parts of river that a run uses, imported without scikit-learn.

If scikit-learn is installed, river imports it for adapters that no run uses: over a second of CPU time per process, and
threads, which a process that forks others must not have.
"""

from __future__ import annotations

import sys

_IS_IMPORTED = "sklearn" in sys.modules
if not _IS_IMPORTED:
    sys.modules["sklearn"] = None  # type: ignore[assignment]  # to Python a module that is not installed
try:
    from river import optim
    from river.drift import ADWIN
    from river.reco import BiasedMF
finally:
    if not _IS_IMPORTED:
        del sys.modules["sklearn"]

__all__ = ["ADWIN", "BiasedMF", "optim"]
