"""Run in a guest before anything else: what is made once a session is there afterwards."""

from __future__ import annotations

from testbed.kmesh.mesh import Mesh
from testbed.lab.family import Family
from testbed.lab.lab import Lab
from testbed.lab.pair import Pair


def test_warm(mesh: Mesh, lab: Lab) -> None:
    """A connection."""
    pair = Pair(lab, Family.V4)
    with pair.connect():
        mesh.lab.settle()
