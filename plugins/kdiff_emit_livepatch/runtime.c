// SPDX-License-Identifier: GPL-2.0-only
/*
 * What every livepatch update has in common: it names the functions to
 * redirect (update.h, generated), looks at the code of modules before it is
 * redirected, and tells the kernel log what became of the update.
 */
#include <linux/elf.h>
#include <linux/kallsyms.h>
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/string.h>
#include <linux/types.h>
#include <linux/version.h>
#include <linux/vmalloc.h>

#include "update.h"

#define SAY(what) pr_info("ksplice: Update " UPDATE_ID " " what "\n")

#define DECLARE(number, name, position, symbol) \
	extern void successor_##number(void) __asm__(symbol);

#define ROW(number, name, position, symbol)			\
	{							\
		.old_name = name,				\
		.new_func = (void *)successor_##number,		\
		.old_sympos = position,				\
	},

REPLACEMENTS(DECLARE)

static struct klp_func functions[] = {
	REPLACEMENTS(ROW)
	{ }
};

static bool applied;

#ifdef FRESH
/*
 * Modules whose data the update lays out in another way than their own code
 * does. They may be loaded only while all tasks run the new code, and will go
 * on to: ksplice-apply opens that time, and ksplice-undo closes it before it
 * looks whether one of them is loaded.
 */
static char *fresh = FRESH;
module_param(fresh, charp, 0444);
static bool open;
module_param(open, bool, 0600);
#else
static const bool open;
#endif

/* Runs when every task uses the new functions, also after an undo that was itself cancelled. */
static void post_patch(struct klp_object *object)
{
	if (applied)
		SAY("stays applied");
	else
		SAY("applied successfully");
	applied = true;
}

/* Runs when no task uses them any more; without post_patch before it, the apply was cancelled. */
static void post_unpatch(struct klp_object *object)
{
	if (applied)
		SAY("reversed successfully");
	else
		SAY("aborted");
	applied = false;
}

#if defined(CONFIG_X86_64) && LINUX_VERSION_CODE < KERNEL_VERSION(6, 3, 0)
/* Writes zeros to code or data of the update that nothing runs or reads; both may be read-only, so elsewhere. */
static void empty(void *place, size_t size)
{
	struct page *pages[] = { vmalloc_to_page(place), vmalloc_to_page(place + size - 1) };
	void *alias = vmap(pages, ARRAY_SIZE(pages), VM_MAP, PAGE_KERNEL);

	if (!alias)
		return;
	memset(alias + offset_in_page(place), 0, size);
	vunmap(alias);
}

/*
 * When a module comes, livepatch fills in the addresses of its symbols, and
 * keeps the module out if a place is not empty. Since commit 0c05e7bd2d01 it
 * empties them when the module goes; before, somebody else must.
 */
static void __maybe_unused forget(struct klp_object *object)
{
	const struct klp_modinfo *own = THIS_MODULE->klp_info;
	char tables[sizeof(".klp.rela..") + MODULE_NAME_LEN];
	const Elf64_Shdr *table;
	const Elf64_Rela *each;
	void *section;

	snprintf(tables, sizeof(tables), ".klp.rela.%s.", object->name);
	for (table = own->sechdrs; table < own->sechdrs + own->hdr.e_shnum; table++) {
		if (!(table->sh_flags & SHF_RELA_LIVEPATCH) || !strstarts(own->secstrings + table->sh_name, tables))
			continue;
		section = (void *)own->sechdrs[table->sh_info].sh_addr;
		each = (void *)table->sh_addr;
		for (; (void *)each < (void *)table->sh_addr + table->sh_size; each++) {
			unsigned int type = ELF64_R_TYPE(each->r_info);

			if (type != R_X86_64_NONE)
				empty(section + each->r_offset, type == R_X86_64_64 || type == R_X86_64_PC64 ? 8 : 4);
		}
	}
}
#else
static void __maybe_unused forget(struct klp_object *object)
{
}
#endif

/* Runs when a module goes, but also after an undo: then nobody needs what is filled in, nor minds. */
static void __maybe_unused module_gone(struct klp_object *object)
{
	if (object->mod->state != MODULE_STATE_LIVE)
		forget(object);
}

/* The code of one function as it was when the update was made; bytes that may differ are not known. */
struct expectation {
	const u8 *code;
	const u8 *known;
	size_t size;
};

/*
 * Runs before the code of a module is redirected, which for a module that is
 * loaded later is then. The kernel has found the functions by name only: a
 * module of another build must stay out, or it would run code that is not its own.
 */
static int __maybe_unused look_at(struct klp_object *object, const struct expectation *expected, bool is_fresh)
{
	struct klp_func *function;

	/* klp_init_transition() says so of all functions before modules that are loaded get here. */
	if (is_fresh && (object->funcs->transition || !READ_ONCE(open))) {
		pr_err("ksplice: Update " UPDATE_ID " lays out data of module %s in another way: load it when the update is applied, and unload it before that is undone\n",
		       object->name);
		return -ETXTBSY;
	}
	klp_for_each_func_static(object, function) {
		const u8 *code = function->old_func;
		size_t at;

		if (function->old_size < expected->size)
			goto differs;
		for (at = 0; at < expected->size; at++)
			if ((code[at] ^ expected->code[at]) & expected->known[at])
				goto differs;
		expected++;
	}
	return 0;
differs:
	pr_err("ksplice: Update " UPDATE_ID " was made for another build of module %s: %s differs\n",
	       object->name, function->old_name);
	return -ENOEXEC;
}

/* What a variable of a module that is loaded later starts with, and what it would start with by itself. */
struct initial {
	const char *name;
	u8 *at;
	const u8 *old;
	const u8 *new;
	size_t size;
};

/* Runs before any code of the module does, and before its parameters are set. */
static int __maybe_unused set(struct klp_object *object, const struct initial *all)
{
	const struct initial *each;

	for (each = all; each->size; each++)
		if (memcmp(each->at, each->old, each->size)) {
			pr_err("ksplice: Update " UPDATE_ID " was made for another build of module %s: %s differs\n",
			       object->name, each->name);
			return -ENOEXEC;
		}
	for (each = all; each->size; each++)
		memcpy(each->at, each->new, each->size);
	return 0;
}

#define VARIABLE(number) \
	extern u8 variable_##number[] __asm__("kdiff_variable_" #number);

#define INITIAL(number) \
	{ NAME_##number, variable_##number + OFFSET_##number, old_##number, new_##number, sizeof(new_##number) },

#define EXPECT(number, name, position, symbol) \
	{ code_##number, known_##number, sizeof(code_##number) },

#define DEFINE(index, module, is_fresh)						\
	REPLACEMENTS_##index(DECLARE)						\
	INITIAL_##index(VARIABLE)						\
	static struct klp_func functions_##index[] = {				\
		REPLACEMENTS_##index(ROW)					\
		{ }								\
	};									\
	static const struct expectation expectations_##index[] = {		\
		REPLACEMENTS_##index(EXPECT)					\
	};									\
	/* Not constant: livepatch fills in the addresses when it knows them. */ \
	static struct initial initial_##index[] = {				\
		INITIAL_##index(INITIAL)					\
		{ }								\
	};									\
	static int pre_patch_##index(struct klp_object *object)			\
	{									\
		int status = look_at(object, expectations_##index, is_fresh) ?:	\
			     set(object, initial_##index);			\
										\
		if (status)							\
			forget(object);						\
		return status;							\
	}

#define OBJECT(index, module, is_fresh)						\
	{									\
		.name = module,							\
		.funcs = functions_##index,					\
		.callbacks = {							\
			.pre_patch = pre_patch_##index,				\
			.post_unpatch = module_gone,				\
		},								\
	},

MODULES(DEFINE)

static struct klp_object objects[] = {
	{
		.name = NULL, /* vmlinux; the update's own messages hang on it, so it is always there */
		.funcs = functions,
		.callbacks = {
			.post_patch = post_patch,
			.post_unpatch = post_unpatch,
		},
	},
	MODULES(OBJECT)
	{ }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objects,
};

static int __init update_init(void)
{
	return klp_enable_patch(&patch);
}

/* The kernel lets a livepatch module go only once nothing uses it. */
static void __exit update_exit(void)
{
}

module_init(update_init);
module_exit(update_exit);
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
MODULE_DESCRIPTION("ksplice update " UPDATE_ID);
