# SPDX-License-Identifier: Apache-2.0
"""A kernel source of a few files with a Kbuild of a few lines, and a compiler that copies.

An "object" is the text that the compiler was given, so a test can read what was compiled. Headers are pasted
in; preprocessing drops lines that begin with `//`. A source line `error` does not compile; while the file
`hold` exists the compiler sleeps, and `spoil` makes preparing fail.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MAKEFILE = """\
VERSION = 9
PATCHLEVEL = 1
SUBLEVEL = 2
EXTRAVERSION =
KBUILD = $(MAKE) -s -C $(O) -f $(CURDIR)/Makefile.build SRC=$(CURDIR) obj=./$(patsubst %/,%,$(dir $@)) $@
olddefconfig:
	@echo CONFIG_NEW=y >> $(O)/.config
prepare:
	@test ! -e $(O)/../../../spoil || { echo "objtool: libelf.h: No such file"; exit 1; }
	@echo "prepared $(KERNELRELEASE)" >> $(O)/../made
net/%: ; @$(KBUILD)
lib/%: ; @$(KBUILD)
"""
MAKEFILE_BUILD = """\
srctree := $(SRC)
include $(SRC)/$(obj)/Makefile
real-obj-y := $(addprefix $(patsubst ./%,%,$(obj))/,$(obj-y))
real-obj-m := $(addprefix $(patsubst ./%,%,$(obj))/,$(obj-m))
NAME = -DKBUILD_MODNAME='\\"$(name-$(@F))\\"'
%.o:
	@mkdir -p $(@D)
	@echo "$@" >> ../made
	@$(CC) -o $@ $(SRC)/$*.c
	@echo "cmd_$@ := cc $(if $(filter $@,$(real-obj-m)),-DMODULE) $(NAME) -c $*.c" > $(@D)/.$(@F).cmd
"""
COMPILER = """\
#!/bin/sh
case "$1" in --version) echo "fakecc (Fake 1.2-3) 1.2.0"; echo "Copyright"; exit;; esac
while test -e {hold}; do sleep 0.05; done
if grep -n '^error$' "${{3:-$2}}" >&2; then echo "$3:1: error: no such thing" >&2; exit 1; fi
grep '^warn$' "${{3:-$2}}" >/dev/null && echo "$3:1: warning: dubious" >&2
paste() {{
    while IFS= read -r line; do
        case "$line" in
        '#include "'*.h*) file=${{1%/*}}/$(echo "$line" | cut -d '"' -f 2)
            test "$2" && printf '# 1 "%s"\\n' "$file"; cat "$file" || exit 1;;
        *) echo "$line";;
        esac
    done < "$1"
}}
case "$1" in
-E) paste "$2" markers | grep -v -e '^//' -e '^#line'; echo "$2" >> ../preprocessed;;
*) paste "$3" > "$2";;
esac
"""
OWN = """\
// for tests
static inline int one(int x)
{
\treturn x;
}
static inline int two(int x)
{
\treturn x;
}
int three;
"""
CORE = "".join(f"int core{number};\n" for number in range(1, 21))


@dataclass(frozen=True)
class FakeKernel:
    """Where everything is; `made` lists what make made, in order."""

    root: Path
    config: Path
    source: Path
    cache: Path

    @property
    def hold(self) -> Path:
        return self.root / "hold"

    def made(self) -> list[str]:
        files = list(self.cache.glob("*/made"))
        return files[0].read_text().splitlines() if files else []

    def preprocessed(self) -> list[str]:
        """The names of the units that were preprocessed, in order."""
        files = list(self.cache.glob("*/preprocessed"))
        return [Path(line).name for line in files[0].read_text().splitlines()] if files else []

    def shadow(self, path: str) -> Path:
        (found,) = self.cache.glob("*/source")
        return found / path

    def patch(self, path: str, at: int, line: str) -> Path:
        """Write a patch that puts `line` before line `at` of a source file."""
        old = (self.source / path).read_text().splitlines()
        context = old[at - 2 : at + 1]
        body = [f" {context[0]}", f"+{line}", *(f" {each}" for each in context[1:])]
        head = f"--- a/{path}\n+++ b/{path}\n@@ -{at - 1},{len(context)} +{at - 1},{len(context) + 1} @@\n"
        file = self.root / "x.patch"
        file.write_text(head + "".join(f"{each}\n" for each in body))
        return file


def make_fake_kernel(root: Path) -> FakeKernel:
    kernel = FakeKernel(root, root / "config", root / "source", root / "cache")
    files = {
        "source/Makefile": MAKEFILE,
        "source/Makefile.build": MAKEFILE_BUILD,
        "source/net/Makefile": "obj-y := core.o part.o user.o other.o\nobj-m := mod.o\n"
        "name-mod.o := mod_name\nmade.c: $(src)/origin.h\n",
        "source/net/origin.h": "int a;\nint b;\nint c;\n",
        "source/net/core.c": CORE,
        "source/net/mod.c": "int a;\nint b;\nint c;\n",
        "source/net/part.c": 'int before;\n# include "piece.c"\nint after;\n',
        "source/net/piece.c": "int a;\nint b;\nint c;\n",
        "source/net/orphan.c": "int a;\nint b;\nint c;\n",
        "source/net/off.c": "int a;\nint b;\nint c;\n",
        "source/net/none.c": '#include "orphan.c"\n',
        "source/net/own.h": OWN,
        "source/net/unused.h": "int a;\nint b;\nint c;\n",
        "source/net/user.c": '#include "own.h"\nint user(void)\n{\n\treturn one(1);\n}\n',
        "source/net/other.c": '#include "own.h"\nint other;\n',
        "source/net/stray.c": '#include "own.h"\nint stray;\n',
        "source/off/Makefile": "obj-y := driver.o\n",
        "source/off/driver.c": "int a;\nint b;\nint c;\n",
        "source/lib/Makefile": "lib-y := lib/string.o\nobj-m := shared.o\nname-shared.o := one:two\n",
        "source/lib/string.c": "int a;\nint b;\nint c;\n",
        "source/lib/shared.c": "int a;\nint b;\nint c;\n",
        "config/.config": "#\n# Linux/fake 9.1.2 Kernel Configuration\n#\n"
        'CONFIG_CC_VERSION_TEXT="fakecc (Fake 1.2-3) 1.2.0"\nCONFIG_MODULE_SIG_ALL=y\nCONFIG_MODULE_SIG=y\n'
        'CONFIG_MODULE_SIG_KEY="certs/key.pem"\nCONFIG_SYSTEM_TRUSTED_KEYS="debian.pem"\n'
        "# CONFIG_OTHER is not set\nCONFIG_PAHOLE_VERSION=124\n",
        "config/System.map": "",
        "config/flags": f"CC={root}/fakecc\n",
        "config/build/include/generated/utsrelease.h": '#define UTS_RELEASE "9.1.0-7-fake"\n',
        "fakecc": COMPILER.format(hold=kernel.hold),
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "fakecc").chmod(0o755)
    return kernel
