"""Where the testbed acquires what outlives the line: said to whoever listens, by ``sys.audit`` (PEP 578).

Without a listener this costs 0.1 µs. The leak bill (`testbed.bill`) learns so which line acquired what;
the fault tests count down by it, to end a run at exactly this or that acquisition.
"""

from __future__ import annotations

import sys

ACQUIRED = "testbed.acquired"
"""The audit event. Its arguments: the kind, such as ``cgroup``, and what: a path, an id, a descriptor."""


def acquired(kind: str, what: object) -> None:
    """To be called in the line after the do, before anything else can fail.

    A kind that begins with ``kept`` is of what outlives the test that was the first to need it, on purpose:
    a run's folder, for example. It is on no test's bill; the reason stands beside the call.
    """
    sys.audit(ACQUIRED, kind, what)
