"""Gates on links: what happens to one segment and no other, by a small tc program steered from a test."""

from testbed.gates.gate import Gate, HoldGate
from testbed.gates.kinds import Ack, Any, Data, Fin, Rst, SegmentKind, Syn, SynAck
from testbed.gates.link import Link
from testbed.gates.matched import Matched
from testbed.gates.program import GateProgram, gate_sources

__all__ = [
    "Ack",
    "Any",
    "Data",
    "Fin",
    "Gate",
    "GateProgram",
    "HoldGate",
    "Link",
    "Matched",
    "Rst",
    "SegmentKind",
    "Syn",
    "SynAck",
    "gate_sources",
]
