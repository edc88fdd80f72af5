# SPDX-License-Identifier: Apache-2.0
"""Every relocation type of every architecture takes what its linker takes: see rangeoracle.

`{}` stands for a symbol and a number. What a linker does otherwise is listed beside it, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import linkoracle
import pytest
from kdiff_arch_aarch64 import ARCHITECTURE as AARCH64
from kdiff_arch_arm import ARCHITECTURE as ARM
from kdiff_arch_i386 import ARCHITECTURE as I386
from kdiff_arch_loongarch64 import ARCHITECTURE as LOONGARCH64
from kdiff_arch_ppc64le import ARCHITECTURE as PPC64LE
from kdiff_arch_riscv64 import ARCHITECTURE as RISCV64
from kdiff_arch_s390x import ARCHITECTURE as S390X
from kdiff_arch_x86_64 import ARCHITECTURE as X86_64
from linkoracle import Cross
from rangeoracle import compare, wrong

from kdiff.arch import Architecture


@dataclass(frozen=True, slots=True)
class Rows:
    """`texts`: assembly by name without the prefix; the other rows are those of `compare` and `wrong`."""

    cross: Cross
    prefix: str
    places: tuple[int, ...]
    texts: Mapping[str, str]
    around: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()
    narrow: tuple[str, ...] = ()
    other_linker: tuple[str, ...] = ()
    """Rows that this linker does not know; another one here does."""

    def names(self, short: tuple[str, ...]) -> set[str]:
        return {self.prefix + name for name in short}


def tools(
    architecture: Architecture,
    prefix: str,
    *flags: str,
    link_flags: tuple[str, ...] = (),
    bases: tuple[tuple[str, int], ...] = (),
) -> Cross:
    return Cross(architecture, prefix, flags, 0, 0, 0, link_flags, bases=bases)


def llvm(architecture: Architecture, target: str, *flags: str, link_flags: tuple[str, ...] = ()) -> Cross:
    compiler = ("clang-19", f"--target={target}")
    return Cross(architecture, "", flags, 0, 0, 0, link_flags, compiler=compiler, linker="ld.lld-19")


X86_64_ROWS = Rows(
    tools(X86_64, "x86_64-linux-gnu-"),
    "R_X86_64_",
    (0xFFFFFFFF81000000, 0x400000),
    {
        "64": ".quad {}",
        "PC32": ".long {} - .",
        "PLT32": ".reloc ., R_X86_64_PLT32, {}\n.long 0",
        "32": "mov ${}, %eax",
        "32S": "mov ${}, %rax",
        "16": ".short {}",
        "PC16": ".short {} - .",
        "8": ".byte {}",
        "PC8": ".byte {} - .",
        "PC64": ".quad {} - .",
    },
    # 16-bit code counts modulo 64 KiB.
    unchecked=("PC16",),
)

I386_ROWS = Rows(
    tools(I386, "i686-linux-gnu-"),
    "R_386_",
    (0xC1000000, 0x400000),
    {
        "32": ".long {}",
        "PC32": ".long {} - .",
        "PLT32": ".reloc ., R_386_PLT32, {}\n.long 0",
        "16": ".short {}",
        "PC16": ".short {} - .",
        "8": ".byte {}",
        "PC8": ".byte {} - .",
    },
    # 16-bit code counts modulo 64 KiB.
    unchecked=("PC16",),
)

AARCH64_ROWS = Rows(
    tools(AARCH64, "aarch64-linux-gnu-"),
    "R_AARCH64_",
    (0xFFFF800008010000, 0x400000),
    {
        "ABS64": ".xword {}",
        "ABS32": ".word {}",
        "ABS16": ".hword {}",
        "PREL64": ".xword {} - .",
        "PREL32": ".word {} - .",
        "PREL16": ".hword {} - .",
        "MOVW_UABS_G0": "movz x0, #:abs_g0:{}",
        "MOVW_UABS_G0_NC": "movk x0, #:abs_g0_nc:{}",
        "MOVW_UABS_G1": "movz x0, #:abs_g1:{}",
        "MOVW_UABS_G1_NC": "movk x0, #:abs_g1_nc:{}",
        "MOVW_UABS_G2": "movz x0, #:abs_g2:{}",
        "MOVW_UABS_G2_NC": "movk x0, #:abs_g2_nc:{}",
        "MOVW_UABS_G3": "movz x0, #:abs_g3:{}",
        "MOVW_SABS_G0": "movz x0, #:abs_g0_s:{}",
        "MOVW_SABS_G1": "movz x0, #:abs_g1_s:{}",
        "MOVW_SABS_G2": "movz x0, #:abs_g2_s:{}",
        "LD_PREL_LO19": "ldr x0, {}",
        "ADR_PREL_LO21": "adr x0, {}",
        "ADR_PREL_PG_HI21": "adrp x0, {}",
        "ADR_PREL_PG_HI21_NC": "adrp x0, :pg_hi21_nc:{}",
        "ADD_ABS_LO12_NC": "add x0, x0, #:lo12:{}",
        "LDST8_ABS_LO12_NC": "ldrb w0, [x0, #:lo12:{}]",
        "LDST16_ABS_LO12_NC": "ldrh w0, [x0, #:lo12:{}]",
        "LDST32_ABS_LO12_NC": "ldr w0, [x0, #:lo12:{}]",
        "LDST64_ABS_LO12_NC": "ldr x0, [x0, #:lo12:{}]",
        "LDST128_ABS_LO12_NC": "ldr q0, [x0, #:lo12:{}]",
        "TSTBR14": "tbz x0, #3, {}",
        "CONDBR19": "b.eq {}",
        "JUMP26": "b {}",
        "CALL26": "bl {}",
        "MOVW_PREL_G0": "movz x0, #:prel_g0:{}",
        "MOVW_PREL_G0_NC": "movk x0, #:prel_g0_nc:{}",
        "MOVW_PREL_G1": "movz x0, #:prel_g1:{}",
        "MOVW_PREL_G1_NC": "movk x0, #:prel_g1_nc:{}",
        "MOVW_PREL_G2": "movz x0, #:prel_g2:{}",
        "MOVW_PREL_G2_NC": "movk x0, #:prel_g2_nc:{}",
        "MOVW_PREL_G3": "movz x0, #:prel_g3:{}",
        "GOT_LD_PREL19": "ldr x0, :got:{}",
        "ADR_GOT_PAGE": "adrp x0, :got:{}",
        "LD64_GOT_LO12_NC": "ldr x0, [x0, :got_lo12:{}]",
    },
    # ld makes a stub.
    around=("JUMP26", "CALL26"),
    # ld takes any distance to its slots.
    unchecked=("ADR_GOT_PAGE",),
)

ARM_ROWS = Rows(
    tools(ARM, "arm-linux-gnueabihf-", "-marm", "-march=armv7-a"),
    "R_ARM_",
    (0xC0100000, 0x400000),
    {
        "PC24": ".reloc ., R_ARM_PC24, {}\n.inst 0xebfffffe",
        "ABS32": ".word {}",
        "REL32": ".word {} - .",
        "ABS16": ".hword {}",
        "ABS8": ".byte {}",
        "CALL": "bl {}",
        "JUMP24": "b {}",
        "TARGET1": ".word {}(TARGET1)",
        "PREL31": ".reloc ., R_ARM_PREL31, {}\n.word 0",
        "MOVW_ABS_NC": "movw r0, #:lower16:{}",
        "MOVT_ABS": "movt r0, #:upper16:{}",
        "MOVW_PREL_NC": "movw r0, #:lower16:{} - .",
        "MOVT_PREL": "movt r0, #:upper16:{} - .",
    },
    # ld makes a stub.
    around=("PC24", "CALL", "JUMP24"),
    # AAELF32 takes signed and unsigned values; ld, on hosts of 64 bits, takes negative ones for large.
    narrow=("ABS16", "ABS8"),
)

PPC64LE_ROWS = Rows(
    tools(
        *(PPC64LE, "powerpc64le-linux-gnu-", "-mcpu=power10"),
        link_flags=("--no-toc-optimize", "--no-pcrel-optimize"),
        bases=((".TOC.", 0x8000),),
    ),
    "R_PPC64_",
    (0xC000000000010000, 0x10000000),
    {
        "ADDR32": ".long {}",
        "ADDR24": "bla {}",
        "ADDR16": "li 3, {}",
        "ADDR16_LO": "addi 3, 3, {}@l",
        "ADDR16_HI": "lis 3, {}@h",
        "ADDR16_HA": "lis 3, {}@ha",
        "ADDR14": "bca 12, 2, {}",
        "REL24": "bl {}",
        "REL14": "bc 12, 2, {}",
        "UADDR32": ".reloc ., R_PPC64_UADDR32, {}\n.long 0",
        "UADDR16": ".reloc ., R_PPC64_UADDR16, {}\n.short 0",
        "REL32": ".long {} - .",
        "ADDR64": ".quad {}",
        "ADDR16_HIGHER": "ori 3, 3, {}@higher",
        "ADDR16_HIGHERA": "addi 3, 3, {}@highera",
        "ADDR16_HIGHEST": "lis 3, {}@highest",
        "ADDR16_HIGHESTA": "lis 3, {}@highesta",
        "UADDR64": ".reloc ., R_PPC64_UADDR64, {}\n.quad 0",
        "REL64": ".quad {} - .",
        "TOC16": "addi 3, 2, {}@toc",
        "TOC16_LO": "addi 3, 3, {}@toc@l",
        "TOC16_HI": "addis 3, 2, {}@toc@h",
        "TOC16_HA": "addis 3, 2, {}@toc@ha",
        "ADDR16_DS": "ld 3, {}(4)",
        "ADDR16_LO_DS": "ld 3, {}@l(4)",
        "TOC16_DS": "ld 3, {}@toc(2)",
        "TOC16_LO_DS": "ld 3, {}@toc@l(3)",
        "ADDR16_HIGH": "oris 3, 3, {}@high",
        "ADDR16_HIGHA": "addis 3, 3, {}@higha",
        "REL24_NOTOC": ".reloc ., R_PPC64_REL24_NOTOC, {}\nbl .",
        "REL24_P9NOTOC": ".reloc ., R_PPC64_REL24_P9NOTOC, {}\nbl .",
        "D34": "paddi 3, 0, {}",
        "PCREL34": "pla 3, {}@pcrel",
        "REL16": "addi 3, 12, {} - .",
        "REL16_LO": "addi 3, 12, ({} - .)@l",
        "REL16_HI": "addis 3, 12, ({} - .)@h",
        "REL16_HA": "addis 3, 12, ({} - .)@ha",
        "REL16_HIGH": ".reloc ., R_PPC64_REL16_HIGH, {}\naddis 3, 3, 0",
        "REL16_HIGHA": ".reloc ., R_PPC64_REL16_HIGHA, {}\naddis 3, 3, 0",
        "REL16_HIGHER": ".reloc ., R_PPC64_REL16_HIGHER, {}\naddi 3, 3, 0",
        "REL16_HIGHERA": ".reloc ., R_PPC64_REL16_HIGHERA, {}\naddi 3, 3, 0",
        "REL16_HIGHEST": ".reloc ., R_PPC64_REL16_HIGHEST, {}\nlis 3, 0",
        "REL16_HIGHESTA": ".reloc ., R_PPC64_REL16_HIGHESTA, {}\nlis 3, 0",
        "GOT_PCREL34": "pld 3, {}@got@pcrel",
    },
    # ld makes a stub.
    around=("REL24", "REL14", "REL24_NOTOC", "REL24_P9NOTOC"),
    # A bitfield to ld, but the processor extends its sign.
    unchecked=("ADDR24",),
)

S390X_ROWS = Rows(
    tools(S390X, "s390x-linux-gnu-", "-march=z13"),
    "R_390_",
    (0x100000, 0x200000000000),
    {
        "8": ".byte {}",
        "12": "l %r1, {}(%r2)",
        "16": "lhi %r1, {}",
        "32": ".long {}",
        "PC32": ".long {} - .",
        "PLT32": ".long {}@PLT - .",
        "PC16": ".reloc ., R_390_PC16, {}\n.short 0",
        "PC16DBL": "j {}",
        "PLT16DBL": "brc 8, {}@PLT",
        "PC32DBL": "larl %r1, {}",
        "PLT32DBL": "brasl %r14, {}@PLT",
        "64": ".quad {}",
        "PC64": ".quad {} - .",
        "PLT64": ".quad {}@PLT - .",
        "20": "lg %r1, {}(%r2)",
        "PC12DBL": "bprp 1, {}, 0",
        "PLT12DBL": "bprp 1, {}@PLT, 0",
        "PC24DBL": "bprp 1, 0, {}",
        "PLT24DBL": "bprp 1, 0, {}@PLT",
        "GOTENT": "lgrl %r1, {}@GOTENT",
    },
    # ld checks displacements not at all, and distances as bitfields; the processor extends their sign.
    unchecked=(
        "12",
        "20",
        "PC32",
        "PLT32",
        "PC16",
        "PC16DBL",
        "PLT16DBL",
        "PC32DBL",
        "PLT32DBL",
        "PC12DBL",
        "PLT12DBL",
        "PC24DBL",
        "PLT24DBL",
        "GOTENT",
    ),
)

RISCV64_ROWS = Rows(
    tools(RISCV64, "riscv64-linux-gnu-", "-march=rv64gc", "-mno-relax", link_flags=("--no-relax",)),
    "R_RISCV_",
    (0xFFFFFFFF80010000, 0x400000),
    {
        "32": ".word {}",
        "64": ".dword {}",
        "BRANCH": ".reloc ., R_RISCV_BRANCH, {}\n.4byte 0x00b50063",
        "JAL": ".option norvc\nj {}",
        "CALL": ".reloc ., R_RISCV_CALL, {}\nauipc ra, 0\njalr ra, 0(ra)",
        "CALL_PLT": ".reloc ., R_RISCV_CALL_PLT, {}\nauipc ra, 0\njalr ra, 0(ra)",
        "PCREL_HI20": "auipc a0, %pcrel_hi({})",
        "HI20": "lui a0, %hi({})",
        "LO12_I": "addi a0, a0, %lo({})",
        "LO12_S": "sd a1, %lo({})(a0)",
        "RVC_BRANCH": ".reloc ., R_RISCV_RVC_BRANCH, {}\n.2byte 0xc101",
        "RVC_JUMP": ".reloc ., R_RISCV_RVC_JUMP, {}\n.2byte 0xa001",
        "32_PCREL": ".reloc ., R_RISCV_32_PCREL, {}\n.word 0",
        "GOT_HI20": "auipc a0, %got_pcrel_hi({})",
        "PCREL_LO12_I": "0: auipc a0, %pcrel_hi({})\naddi a0, a0, %pcrel_lo(0b)",
        "PCREL_LO12_S": "0: auipc a0, %pcrel_hi({})\nsd a1, %pcrel_lo(0b)(a0)",
        "ADD8": ".reloc ., R_RISCV_ADD8, {}\n.reloc ., R_RISCV_SUB8, origin\n.byte 0",
        "ADD16": ".reloc ., R_RISCV_ADD16, {}\n.reloc ., R_RISCV_SUB16, origin\n.half 0",
        "ADD32": ".reloc ., R_RISCV_ADD32, {}\n.reloc ., R_RISCV_SUB32, origin\n.word 0",
        "ADD64": ".reloc ., R_RISCV_ADD64, {}\n.reloc ., R_RISCV_SUB64, origin\n.dword 0",
        "SET6": ".reloc ., R_RISCV_SET6, {}\n.reloc ., R_RISCV_SUB6, origin\n.byte 0",
        "SET8": ".reloc ., R_RISCV_SET8, {}\n.reloc ., R_RISCV_SUB8, origin\n.byte 0",
        "SET16": ".reloc ., R_RISCV_SET16, {}\n.reloc ., R_RISCV_SUB16, origin\n.half 0",
        "SET32": ".reloc ., R_RISCV_SET32, {}\n.reloc ., R_RISCV_SUB32, origin\n.word 0",
    },
    # ld makes a `lui` of an `auipc` that does not reach.
    around=("PCREL_HI20", "GOT_HI20", "PCREL_LO12_I", "PCREL_LO12_S"),
    # ld does not check it.
    unchecked=("32_PCREL",),
    other_linker=("PLT32", "SET_ULEB128"),
)

RISCV64_LLVM_ROWS = Rows(
    llvm(RISCV64, "riscv64-linux-gnu", "-march=rv64gc", "-mno-relax", link_flags=("--no-relax",)),
    "R_RISCV_",
    (0xFFFFFFFF80010000, 0x400000),
    {n: t for n, t in RISCV64_ROWS.texts.items() if n != "SET32"}
    | {"PLT32": ".reloc ., R_RISCV_PLT32, {}\n.word 0"},
    # lld checks SET32 before the other symbol is subtracted.
    other_linker=("SET32", "SET_ULEB128"),
)

LOONGARCH64_ROWS = Rows(
    llvm(LOONGARCH64, "loongarch64-linux-gnu"),
    "R_LARCH_",
    (0x9000000000202000, 0x120000000),
    {
        "32": ".4byte {}",
        "64": ".8byte {}",
        "B16": "beq $a0, $a1, %b16({})",
        "B21": "beqz $a0, %b21({})",
        "B26": "b %b26({})",
        "ABS_HI20": "lu12i.w $a0, %abs_hi20({})",
        "ABS_LO12": "ori $a0, $a0, %abs_lo12({})",
        "ABS64_LO20": "lu32i.d $a0, %abs64_lo20({})",
        "ABS64_HI12": "lu52i.d $a0, $a0, %abs64_hi12({})",
        "PCALA_HI20": "pcalau12i $a0, %pc_hi20({})",
        "PCALA_LO12": "addi.d $a0, $a0, %pc_lo12({})",
        "32_PCREL": ".reloc ., R_LARCH_32_PCREL, {}\n.4byte 0",
        "PCREL20_S2": ".reloc ., R_LARCH_PCREL20_S2, {}\npcaddi $a0, 0",
        "64_PCREL": ".reloc ., R_LARCH_64_PCREL, {}\n.8byte 0",
        "CALL36": ".reloc ., R_LARCH_CALL36, {}\npcaddu18i $ra, 0\njirl $ra, $ra, 0",
        "GOT_PC_HI20": "pcalau12i $a0, %got_pc_hi20({})",
        "GOT_PC_LO12": "pcalau12i $a0, %got_pc_hi20({})\nld.d $a0, $a0, %got_pc_lo12({})",
        "ADD6": ".reloc ., R_LARCH_ADD6, {}\n.reloc ., R_LARCH_SUB6, origin\n.byte 0",
        "ADD8": ".reloc ., R_LARCH_ADD8, {}\n.reloc ., R_LARCH_SUB8, origin\n.byte 0",
        "ADD16": ".reloc ., R_LARCH_ADD16, {}\n.reloc ., R_LARCH_SUB16, origin\n.2byte 0",
        "ADD32": ".reloc ., R_LARCH_ADD32, {}\n.reloc ., R_LARCH_SUB32, origin\n.4byte 0",
        "ADD64": ".reloc ., R_LARCH_ADD64, {}\n.reloc ., R_LARCH_SUB64, origin\n.8byte 0",
        "GOT_HI20": "lu12i.w $a0, %got_hi20({})",
        "GOT_LO12": "ori $a0, $a0, %got_lo12({})",
        "GOT64_LO20": "lu32i.d $a0, %got64_lo20({})",
        "GOT64_HI12": "lu52i.d $a0, $a0, %got64_hi12({})",
    },
    # lld leaves that to the types for the upper quarters.
    unchecked=("PCALA_HI20",),
    other_linker=("ADD_ULEB128",),
)


EVERYBODY = [
    pytest.param(rows, id=name, marks=linkoracle.needs(rows.cross))
    for name, rows in (
        ("x86_64", X86_64_ROWS),
        ("i386", I386_ROWS),
        ("aarch64", AARCH64_ROWS),
        ("arm", ARM_ROWS),
        ("ppc64le", PPC64LE_ROWS),
        ("s390x", S390X_ROWS),
        ("riscv64", RISCV64_ROWS),
        ("riscv64-lld", RISCV64_LLVM_ROWS),
        ("loongarch64", LOONGARCH64_ROWS),
    )
]


@pytest.mark.parametrize("rows", EVERYBODY)
def test_each_row_takes_and_stores_what_the_linker_takes_and_stores(rows: Rows) -> None:
    texts = {rows.prefix + name: text for name, text in rows.texts.items()}
    around, unchecked, narrow = map(rows.names, (rows.around, rows.unchecked, rows.narrow))
    found = compare(rows.cross, texts, rows.places, around)
    assert not wrong(rows.cross, found, unchecked, narrow)
    for name in texts:
        answers = [each.ours for each in found if each.row == name]
        assert len({each for each in answers if each is not None}) > 1, name


@pytest.mark.parametrize("rows", EVERYBODY)
def test_no_row_is_left_out(rows: Rows) -> None:
    storing = [row for row in rows.cross.architecture.howtos.values() if row.fields]
    wanted = {row.name for row in storing if not row.subtracts and not row.stack}
    assert {rows.prefix + name for name in rows.texts} == wanted - rows.names(rows.other_linker)
