"""Global variables of an object by its symbols: for one without BTF, so without their types."""

from __future__ import annotations

import io
import re

from testbed.bpf.elf.file import ObjectFile, elf_damage
from testbed.bpf.types.btf import Variable
from testbed.bpf.types.layout import Opaque

_SECTIONS = re.compile(r"\.(bss|data|rodata)(\.|$)")
_NO_BTF = "bytes (no BTF)"


def sections_and_symbols(file: ObjectFile) -> tuple[dict[str, bytes], list[Variable]]:
    """The contents of the sections by name, none for ``.bss``, and the variables, each as bytes.

    `ObjectError` when the ELF structure is damaged.
    """
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import SymbolTableSection

    variables = []
    try:
        sections = list(ELFFile(io.BytesIO(file.data)).iter_sections())
        contents = {each.name: b"" if each["sh_type"] == "SHT_NOBITS" else each.data() for each in sections}
        for table in sections:
            for symbol in table.iter_symbols() if isinstance(table, SymbolTableSection) else ():
                number, size = symbol["st_shndx"], symbol["st_size"]
                name = sections[number].name if isinstance(number, int) else ""
                if symbol["st_info"]["type"] == "STT_OBJECT" and _SECTIONS.match(name):
                    kind = Opaque(_NO_BTF, size)
                    variables.append(Variable(symbol.name, name, symbol["st_value"], size, kind))
    except Exception as error:
        raise elf_damage(file.path, error) from error
    return contents, variables
