# SPDX-License-Identifier: Apache-2.0
"""What the kernel's headers make of the words that drivers use, for tests: sections, attributes, tables.

include/linux/init.h, module.h, moduleparam.h, export.h, cache.h, percpu-defs.h, compiler_types.h. Of tables
that changed their form there are both: `EXPORT` (since 6.4, modpost makes the tables), `OLD_EXPORT` (before),
`INITCALL` (relative, an assembler's section), `OLD_INITCALL` (a pointer).
"""

from __future__ import annotations

COMMON = r"""
#define STR_(x) #x
#define STR(x) STR_(x)
#define PASTE_(a, b) a##b
#define PASTE(a, b) PASTE_(a, b)
#define __section(name) __attribute__((__section__(name)))
#define __used __attribute__((__used__))
#define __aligned(n) __attribute__((__aligned__(n)))
#define noinline __attribute__((__noinline__))
#define __weak __attribute__((__weak__))
#define __cold __attribute__((__cold__))
#define __init __section(".init.text") __cold
#define __initdata __section(".init.data")
#define __initconst __section(".init.rodata")
#define __exit __section(".exit.text") __used __cold
#define __exitdata __section(".exit.data")
#define __ref __section(".ref.text") noinline
#define __ro_after_init __section(".data..ro_after_init")
#define __read_mostly __section(".data..read_mostly")
#define DEFINE_PER_CPU(type, name) __section(".data..percpu") type name
#define DEFINE_PER_CPU_READ_MOSTLY(type, name) __section(".data..percpu..read_mostly") type name
#define __UNIQUE_ID(prefix) PASTE(PASTE(__UNIQUE_ID_, prefix), __COUNTER__)
#define ___ADDRESSABLE(sym) \
    static void *__used __section(".discard.addressable") __UNIQUE_ID(__addressable_##sym) = (void *)&sym;
typedef int (*initcall_t)(void);
typedef void (*exitcall_t)(void);
int printk(const char *, ...), publish(const void *), limit(int);
"""

EXPORT = r"""
#define EXPORT_SYMBOL_GPL(sym) extern typeof(sym) sym; ___ADDRESSABLE(sym) \
    asm(".section \".export_symbol\",\"a\" ; __export_symbol_" #sym ": ;" \
        ".asciz \"GPL\" ; .asciz \"\" ; .balign 8 ; .quad " #sym " ; .previous");
"""

OLD_EXPORT = r"""
#define EXPORT_SYMBOL_GPL(sym) extern typeof(sym) sym; \
    asm(".section \"__ksymtab_strings\",\"aMS\",%progbits,1 ;" \
        "__kstrtab_" #sym ": .asciz \"" #sym "\" ; __kstrtabns_" #sym ": .asciz \"\" ; .previous"); \
    ___ADDRESSABLE(sym) \
    asm(".section \"___ksymtab_gpl+" #sym "\", \"a\" ; .balign 4 ; __ksymtab_" #sym ":" \
        ".long " #sym "- . ;" \
        ".long __kstrtab_" #sym "- . ; .long __kstrtabns_" #sym "- . ; .previous");
"""

INITCALL = r"""
#define __initcall_id(fn, id) ___ADDRESSABLE(fn) \
    asm(".section \".initcall" #id ".init\", \"a\" ; __initcall__" #fn #id ":" \
        ".long " #fn " - . ; .previous");
#define device_initcall(fn) __initcall_id(fn, 6)
#define early_initcall(fn) __initcall_id(fn, early)
"""

OLD_INITCALL = r"""
#define __initcall_id(fn, id) \
    static initcall_t __initcall_##fn##id __used __section(".initcall" #id ".init") = fn;
#define device_initcall(fn) __initcall_id(fn, 6)
#define early_initcall(fn) __initcall_id(fn, early)
"""

TABLES = r"""
#define __exitcall(fn) static exitcall_t __exitcall_##fn __used __section(".exitcall.exit") = fn;
struct kernel_param_ops { unsigned int flags; int (*set)(const char *, const void *); int (*get)(char *); };
extern const struct kernel_param_ops param_ops_int;
struct kernel_param { const char *name; void *mod; const struct kernel_param_ops *ops;
                      const unsigned short perm; signed char level; unsigned char flags; void *arg; };
#define MODULE_INFO(tag, name, info) \
    static const char __UNIQUE_ID(name)[] __used __section(".modinfo") __aligned(1) \
        = "demo." STR(tag) "=" info;
#define MODULE_PARM_DESC(parm, desc) MODULE_INFO(parm, parm, #parm ":" desc)
#define MODULE_LICENSE(text) MODULE_INFO(license, license, text)
#define MODULE_ALIAS(text) MODULE_INFO(alias, alias, text)
#define module_param(name, type, perm) \
    static const char __param_str_##name[] = "demo." #name; \
    static struct kernel_param const __param_##name __used __section("__param") __aligned(sizeof(void *)) \
        = { __param_str_##name, 0, &param_ops_##type, perm, -1, 0, &name }; \
    MODULE_INFO(parmtype, name##type, #name ":" #type)
struct obs_kernel_param { const char *str; int (*setup_func)(char *); int early; };
#define __setup_param(text, id, fn, early) \
    static const char __setup_str_##id[] __initconst __aligned(1) = text; \
    static struct obs_kernel_param __setup_##id __used __section(".init.setup") \
        __aligned(__alignof__(struct obs_kernel_param)) = { __setup_str_##id, fn, early };
#define __setup(text, fn) __setup_param(text, fn, fn, 0)
#define early_param(text, fn) __setup_param(text, fn, fn, 1)
"""

HEADERS = COMMON + EXPORT + INITCALL + TABLES
OLD_HEADERS = COMMON + OLD_EXPORT + OLD_INITCALL + TABLES
