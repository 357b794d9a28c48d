"""The trace in a verifier log: instructions, C lines, register states, and what was said last.

The kernel has no stable format. What is read here was seen in the logs of Linux 5.10, 6.1, 6.18 and
7.3; those between are taken to be of the same kind:

- ``12: (b7) r0 = 0`` is an instruction, before it is executed. In 6.1 and later the registers that
  it changed follow on the same line behind ``;``, if it was accepted. 5.10 hardly ever tells them.
  Where libbpf knows better, it puts ``12: <invalid CO-RE relocation>`` in its place.
- ``; code`` is the C line of what follows, since 6.10 ``; code @ file.c:12``; ``7: code`` is that of
  instruction 7, before the walk has begun.
- `` R0=… R10=fp0`` is the whole state (as in ``from 3 to 7: R0=…``), ``7: R0=…`` what is new in it.
  Before 6.18 a name may carry marks of liveness (``R0_w=``). A number is ``inv`` in 5.10, ``scalar`` in
  6.1 and later.
- ``caller:`` and ``callee:`` stand where a subprogram is entered; its states begin with ``frame1:``.
- ``mark_precise: …``, ``last_idx …``, ``regs=… stack=…`` speak of the verifier's own bookkeeping.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_INSTRUCTION = re.compile(
    r"(?P<number>\d{1,9}): (?P<text>(?:\([0-9a-f]{2}\) |<).*?)\s*(?:; ?(?P<state>.*))?$"
)
_STATE = re.compile(
    r"(?P<from>from \d+ to \d+(?: \(speculative execution\))?:)?(?P<at>\d+:|cur state:)?(?P<space> ?)"
    r"(?:frame(?P<frame>\d{1,3}): ?)?(?P<registers>(?:R\d{1,2}|fp-\d+)(?:_[a-zA-Z]+)?=.*)"
)
_REGISTER = re.compile(r"(?:^|\s)(R\d{1,2}|fp-\d{1,9})(?:_[a-zA-Z]+)?=")
_VALUE = re.compile(r"(?:[^\s()]|\((?:[^()]|\([^()]*+\))*+\))*+")  # parentheses hold spaces
_PLACED = re.compile(r"(?P<code>.*)@ (?P<file>[^@:]+):(?P<line>\d{1,9})$")
_NUMBERED = re.compile(r"(?P<number>\d{1,9}): (?P<code>.*)")
_CHANGES = re.compile(r"[rw](\d{1,2}) \S*= ")
_NAMED = re.compile(r"\binsn (\d{1,9})\b")
_VALIDATING = re.compile(r"Validating (\S+)\(\) func#\d+")
_LABEL = re.compile(r"(?:caller|callee|returning from callee|to caller at \d+):$")
_STATISTICS = re.compile(r"processed \d+ insns|verification time \d+")
_NOISE = re.compile(
    r"mark_precise: |last_idx \d|regs=\w* stack=|parent (?:didn't have|already had) regs|propagating "
    r"|from \d+ to \d+|func#\d+ @|Func#\d+ .*(?:valid|safe for any args)|old state:"
    r"|Live regs before insn:|\s*\d+: [.\d]{10,} \(|libbpf: |bpf: |HINT: "
)


@dataclass(frozen=True)
class Place:
    """A C line as a log quotes it; ``file`` and ``line`` only where it names them."""

    code: str = ""
    file: str = ""
    line: int | None = None


@dataclass(frozen=True)
class Step:
    """An instruction (``7: (61) r1 = …``, empty where none is known) and its C line."""

    text: str = ""
    place: Place = Place()


def parse_place(text: str) -> Place:
    """Reads ``code @ file.c:12``, or ``code`` alone."""
    match = _PLACED.match(text)
    if match is None:
        return Place(text.strip())
    return Place(match["code"].strip(), match["file"].strip(), int(match["line"]) or None)


def parse_registers(text: str) -> Iterator[tuple[str, str]]:
    """Each register and stack slot of a state, without the marks of liveness behind its name."""
    names = list(_REGISTER.finditer(text))
    ends = [name.start() for name in names[1:]] + [len(text)]
    for name, end in zip(names, ends, strict=True):
        value = _VALUE.match(text[name.end() : end])
        yield name[1], value[0] if value else ""


def _register_order(register: tuple[str, str]) -> tuple[bool, int]:
    name = register[0]
    return name.startswith("fp"), int(name.removeprefix("fp-").removeprefix("R"))


class Trace:
    """What is known after the last line that was read."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.messages: list[str] = []
        self.finished = False  # the statistics have been seen
        self.seen = False  # anything at all has
        self.function = ""  # a global function that is checked for itself
        self._step = Step()
        self._place = Place()
        self._steps: dict[int, Step] = {}
        self._frame = 0
        self._registers: dict[int, dict[str, str]] = {}
        self._calls: dict[int, Step] = {}  # by the frame that was entered
        self._call_sites: dict[int, set[str]] = {}
        self._pending: list[str] = []  # registers that the last instruction changes, if it is accepted
        self._label = ""
        for line in lines:
            if line.strip():
                self._read(line)

    @property
    def step(self) -> Step:
        """The instruction that the messages name, else the last one."""
        named = _NAMED.search(" ".join(self.messages))
        return self._steps.get(int(named[1]), self._step) if named else self._step

    @property
    def registers(self) -> tuple[tuple[str, str], ...]:
        """The registers of the current frame as last known, R0 to R10, then its stack from fp-8 down."""
        return tuple(sorted(self._registers.get(self._frame, {}).items(), key=_register_order))

    @property
    def calls(self) -> tuple[Step, ...]:
        """The calls that lead to the current frame, the outermost first."""
        return tuple(self._calls[frame] for frame in sorted(self._calls) if frame <= self._frame)

    def _read(self, line: str) -> None:
        label, self._label = self._label, ""
        self.seen = self.seen or not line.startswith("libbpf: ")
        if match := _INSTRUCTION.match(line):
            self._instruction(
                int(match["number"]), f"{match['number']}: {match['text']}", match["state"] or ""
            )
        elif match := _STATE.match(line):
            self._state(match, label)
        elif line.startswith(";"):
            self._at(parse_place(line[1:]))
        elif _STATISTICS.match(line):
            self.finished = True
        elif match := _VALIDATING.match(line):
            self._validate(match[1])
        elif _LABEL.match(line):
            self._label = line
        elif _NOISE.match(line):
            if "safe for any args" in line:
                self.function = ""
        elif match := _NUMBERED.match(line):
            self._steps.setdefault(int(match["number"]), Step("", parse_place(match["code"])))
        elif not self.finished:
            self.messages.append(line.strip())

    def _at(self, place: Place) -> None:
        # An instruction that the compiler added has no line: it belongs to those around it.
        if place.code or place.line:
            self._place = place

    def _instruction(self, number: int, text: str, state: str) -> None:
        self._new_path()
        self._accept()
        self._step = Step(text, self._place)
        self._steps[number] = self._step
        operation = text.partition(") ")[2]
        if operation.startswith("call "):
            self._pending = [f"R{number}" for number in range(6)]
        elif match := _CHANGES.match(operation):
            self._pending = [f"R{match[1]}"]
        if state:
            self._accept()
            if match := _STATE.match(state):
                self._state(match, "")

    def _new_path(self) -> None:
        """What was said before is not the last word."""
        self.messages.clear()
        self.finished = False

    def _accept(self) -> None:
        registers = self._registers.get(self._frame, {})
        for name in self._pending:
            registers.pop(name, None)
        self._pending = []

    def _state(self, match: re.Match[str], label: str) -> None:
        frame = int(match["frame"] or 0)
        if match["from"] or label:
            self._pending = []
        elif match["at"]:
            self._accept()
        if match["from"]:
            self._new_path()
            # The path was left open earlier: of several callers, its own is not known any more.
            sites = self._call_sites
            self._calls = {depth: call for depth, call in self._calls.items() if len(sites[depth]) == 1}
        whole = match["from"] or (match["space"] and not match["at"])
        known = {} if whole else self._registers.get(frame, {})
        self._registers[frame] = known | dict(parse_registers(match["registers"]))
        self._frame = frame
        if label == "callee:":
            self._calls[frame] = self._step
            self._call_sites.setdefault(frame, set()).add(self._step.text)

    def _validate(self, function: str) -> None:
        self._new_path()
        self.function = function
        self._frame = 0
        self._registers = {}
