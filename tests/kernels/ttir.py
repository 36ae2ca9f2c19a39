"""Reads Triton's intermediate text: how wide the arithmetic is that leads from the program's number to an address."""

from __future__ import annotations

import re

ARITHMETIC = ("arith.muli", "arith.addi", "arith.subi", "arith.shli")
POINTER_STEPS = ("tt.splat", "tt.broadcast", "tt.expand_dims", "tt.reshape", "tt.addptr", "tt.bitcast")
DEFINITION = re.compile(r"^\s*(%[\w$.-]+)(?::\d+)? = \"?([\w.]+)\"?(.*)$")
BOUND = re.compile(r"(%[\w$.-]+) = (%[\w$.#-]+)")
VALUE = re.compile(r"%[\w$.-]+")


def pointers_with_narrow_row_offsets(text: str) -> set[str]:
    """Arguments that are advanced by an offset which 32-bit sums or products derive from the program's number.

    Such an offset overflows once the rows before a program hold more than 2^31 elements.
    """
    from_program: set[str] = set()
    narrow: set[str] = set()
    argument: dict[str, str] = {}
    found: set[str] = set()
    for line in text.splitlines():
        if "tt.func" in line:
            argument.update({name: name[1:] for name in re.findall(r"(%[\w$.-]+): !tt\.ptr", line)})
            continue
        if " scf.for " in line:
            # The loop's counter and carried values start as what they are set to.
            for inner, outer in BOUND.findall(line):
                for kind in (from_program, narrow):
                    (kind.add if outer in kind else kind.discard)(inner)
        match = DEFINITION.match(line)
        if not match:
            continue
        name, operation, rest = match.groups()
        rest = re.sub(r" loc\(.*", "", rest)
        operands = VALUE.findall(rest)
        for kind in (from_program, narrow):
            derived = operation != "tt.load" and any(operand in kind for operand in operands)
            (kind.add if derived else kind.discard)(name)
        if operation == "tt.get_program_id" and rest.split()[0] == "x":  # y and z count columns
            from_program.add(name)
        if operation in ARITHMETIC and name in from_program and re.search(r"\bi32>?\s*$", rest.strip()):
            narrow.add(name)
        if operation in POINTER_STEPS and operands[0] in argument:
            argument[name] = argument[operands[0]]
            if operation == "tt.addptr" and operands[1] in narrow:
                found.add(argument[name])
        elif name in argument:
            del argument[name]
    return found
