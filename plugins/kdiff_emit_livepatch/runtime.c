// SPDX-License-Identifier: GPL-2.0-only
/*
 * What every livepatch update has in common: it names the functions to
 * redirect (update.h, generated) and tells the kernel log what became of
 * the update.
 */
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>

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

static struct klp_object objects[] = {
	{
		.name = NULL, /* vmlinux */
		.funcs = functions,
		.callbacks = {
			.post_patch = post_patch,
			.post_unpatch = post_unpatch,
		},
	},
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
