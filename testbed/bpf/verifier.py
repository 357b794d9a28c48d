"""What the verifier said, for a person: the reason, the C line, the registers, the instruction count.

Up to Linux 7.2 the reason is the last line or two of the trace (see `verifier_trace`). Linux 7.3
adds, for many rejections though not for all, a report of its own behind them (kernel/bpf/diagnostics.c,
read in 7.3-rc7 and seen in logs of that kernel)::

    R0 invalid mem access 'map_value_or_null'

    Verification failed: Register Type Safety: Invalid dereference

    Reason:
      R0 may be NULL here (…)
    At:
      prog @ count.c:7:9
      Source context:
      >>> 7 |         *count += 1;
            |         ^-- error: invalid dereference of R0 (a nullable map value pointer)
      Instruction context:
      >>>  7 | (61) r1 = *(u32 *)(r0 +0)

    Causal path:
      …
    Suggestion:
      Add a NULL check before the access …

Without line information ``At:`` has ``insn 7`` and the instructions alone. The text is indented by
two and wrapped at 100 columns; the sections differ by the kind of failure (``Active lock:`` is one
more). A line of the trace may follow the report, and the statistics do.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from testbed.bpf.verifier_trace import Place, Step, Trace

_TOO_LARGE = "BPF program is too large."  # can stand behind an instruction, on its line
_PROCESSED = re.compile(
    r"^processed (\d{1,15}) insns|BPF program is too large\. Processed (\d{1,15}) insn", re.MULTILINE
)
_BEGIN, _END = "-- BEGIN PROG LOAD LOG --", "-- END PROG LOAD LOG --"
_FAILED = "Verification failed: "
_SECTION = re.compile(r"(?P<title>[A-Z][A-Za-z ]*):$")
_PLACE = re.compile(r"(?:(?P<function>\S+) @ )?(?P<file>[^:]+):(?P<line>\d{1,9}):\d+$")
_MARKED = re.compile(r"\s*>>>\s*(?P<number>\d{1,9}) \| (?P<text>.*)$")
_MENTIONED = re.compile(r"\b[Rrw](\d{1,2})\b")
_SLOT = re.compile(r"(?:\br10 |\boff[ =]|\bfp)-(\d{1,9})\b")
_TAIL = 1 << 20  # characters: a million instructions make 70 MB of log, and its end is what matters
_WIDTH = 96
_ROWS = 12


@dataclass(frozen=True)
class VerifierReport:
    """Why a program was rejected, and where.

    ``reason`` is one line, in the words that kernels have used all along. ``instruction`` is like
    ``7: (61) r1 = *(u32 *)(r0 +0)``; ``registers`` are those of its frame, as last known before it.
    ``call_chain`` has the calls that lead there, the outermost first. ``problem``, ``explanation``
    and ``suggestion`` are the kernel's own, since Linux 7.3. What the log does not tell is empty.
    """

    reason: str
    code: str = ""
    file: str = ""
    line: int | None = None
    instruction: str = ""
    registers: tuple[tuple[str, str], ...] = ()
    processed: int | None = None
    function: str = ""
    call_chain: tuple[str, ...] = ()
    problem: str = ""
    explanation: str = ""
    suggestion: str = ""

    def lines(self, sources: Sequence[Path] = ()) -> str:
        """The text below the reason, 12 lines at most.

        The C line is quoted from the one of ``sources`` that has its file name, else from the log.
        """
        rows = self._quotation(sources)
        count = f"(instructions processed: {self.processed})" if self.processed is not None else ""
        at = f"at {self.instruction} " if self.instruction else ""
        rows += filter(None, [at + count])
        rows += self._register_rows()
        if self.function or self.call_chain:
            calls = " → ".join(self.call_chain)
            inside = f"in {self.function}()" if self.function else "in a subprogram"
            rows.append(_shorten(f"{inside}, called {calls}" if calls else inside))
        if self.suggestion:
            rows += _wrap(f"the kernel suggests: {self.suggestion}", 2)
        explained = _wrap(self.explanation, _ROWS - len(rows)) if self.explanation != self.reason else []
        return "\n".join([*explained, *rows])

    def _quotation(self, sources: Sequence[Path]) -> list[str]:
        if self.line is None:
            return [self.code] if self.code else []
        for source in sources:
            if source.name == self.file and source.is_file():
                text = source.read_text(encoding="utf-8", errors="replace").splitlines()
                if self.line <= len(text):
                    around = range(max(self.line - 1, 1), min(self.line + 1, len(text)) + 1)
                    return [f"{source}:{self.line}:", *(f"{n:>5} | {text[n - 1]}" for n in around)]
        return [f"{self.file}:{self.line}:", f"{self.line:>5} | {self.code}"]

    def _register_rows(self) -> Iterator[str]:
        known = dict(self.registers)
        first = [name for name in dict.fromkeys(self._mentioned()) if name in known][:2]
        for name in first:
            yield _shorten(f"{name} = {known[name]}")
        others = [f"{name}={value.partition('(')[0]}" for name, value in self.registers if name not in first]
        if others:
            label = "others: " if first else "registers: "
            yield _shorten(label + " ".join(others))

    def _mentioned(self) -> Iterator[str]:
        """The registers and stack slots that the reason names, then those of the instruction."""
        operation = self.instruction.partition(") ")[2]
        for text in (self.reason, operation.replace("r10", "")):  # the frame pointer tells nothing
            yield from (f"R{number}" for number in _MENTIONED.findall(text))
        for offset in _SLOT.findall(f"{self.reason} {operation}"):
            yield f"fp-{-(-int(offset) // 8) * 8}"  # the slot of 8 bytes that holds it


def processed_insns(log: str) -> int | None:
    """How many instructions the verifier walked through, from the statistics; None without them."""
    found = _PROCESSED.findall(log[-_TAIL:])
    return int(found[-1][0] or found[-1][1]) if found else None


def parse_verifier_log(log: str) -> VerifierReport:
    """Reads a log of any kernel, with libbpf's lines around it or without, whole or cut off.

    Never raises: where nothing is recognised, the reason says so.
    """
    trace_lines, sections = _split(_kernel_lines(log))
    trace = Trace(trace_lines)
    step, function = trace.step, trace.function
    if "At" in sections:
        step, function = _where(sections["At"], step, function)
    explanation = _paragraph(sections.get("Reason", []))
    return VerifierReport(
        reason=_printable("; ".join(trace.messages[-3:])) or explanation or _silence(trace),
        code=_printable(step.place.code),
        file=_printable(step.place.file),
        line=step.place.line,
        instruction=_printable(step.text),
        registers=tuple((name, _printable(value)) for name, value in trace.registers),
        processed=processed_insns("\n".join(trace_lines)),
        function=_printable(function),
        call_chain=tuple(_printable(_call(call)) for call in trace.calls),
        problem=_paragraph(sections.get("", [])),
        explanation=explanation,
        suggestion=_paragraph(sections.get("Suggestion", [])),
    )


def _kernel_lines(log: str) -> list[str]:
    """The log between libbpf's marks (the last ones: libbpf stops at a program that fails)."""
    start = log.rfind(_BEGIN)
    if start >= 0:
        log = log[start + len(_BEGIN) :]
    log = log.partition(_END)[0]
    log = log[-_TAIL:].replace("\0", "").replace(_TOO_LARGE, f"\n{_TOO_LARGE}")
    return [line.rstrip() for line in log.split("\n")]


def _split(lines: list[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Parts the trace from the sections of the last report; its heading is the section without a title."""
    trace: list[str] = []
    sections: dict[str, list[str]] = {}
    title: str | None = None
    for line in lines:
        if line.startswith(_FAILED):
            title, sections = "", {"": [line.removeprefix(_FAILED)]}
        elif title is not None and (match := _SECTION.match(line)):
            title = match["title"]
            sections[title] = []
        elif title is not None and (not line or line.startswith("  ")):
            sections[title].append(line)
        else:
            title = None
            trace.append(line)
    return trace, sections


def _where(section: list[str], step: Step, function: str) -> tuple[Step, str]:
    """The place and instruction that ``At:`` marks; what it does not tell stays as the trace has it."""
    text, place = step.text, step.place
    kind = ""
    for line in section:
        if line.endswith(" context:"):
            kind = line.split()[0]
        elif match := _PLACE.match(line.strip()):
            function = match["function"] or function
            if (match["file"], int(match["line"])) != (place.file, place.line):
                place = Place("", match["file"], int(match["line"]))
        elif match := _MARKED.match(line):
            if kind == "Instruction":
                text = f"{match['number']}: {match['text']}"
            elif not place.code:
                place = Place(match["text"].strip(), place.file, place.line)
    return Step(text, place), function


def _wrap(text: str, rows: int) -> list[str]:
    return textwrap.wrap(text, _WIDTH, max_lines=rows, placeholder=" …", break_on_hyphens=False)


def _shorten(text: str) -> str:
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 2]} …"


def _call(step: Step) -> str:
    return f"at {step.text} | {step.place.code}" if step.place.code else f"at {step.text}"


def _paragraph(lines: list[str]) -> str:
    return _printable(" ".join(" ".join(lines).split()))


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "�" for char in text.replace("\t", " "))


def _silence(trace: Trace) -> str:
    if not trace.seen:
        return "the verifier said nothing"
    return "the verifier gave no reason" if trace.finished else "the log ends before the verifier's reason"
