// SPDX-License-Identifier: GPL-2.0-only
/*
 * Run the kernel's own __apply_fineibt(), apply_retpolines(), apply_returns() and apply_seal_endbr() over real
 * objects that are linked with them into a process, and write what memory holds then to a file. See
 * capture_cfi.py.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

typedef int32_t s32;
extern s32 __cfi_sites[], __cfi_sites_end[], __retpoline_sites[], __retpoline_sites_end[];
extern s32 __return_sites[], __return_sites_end[], __ibt_endbr_seal[], __ibt_endbr_seal_end[];
extern char image_start[], image_end[];
extern int cfi_mode;

void __apply_fineibt(s32 *, s32 *, s32 *, s32 *, _Bool);
void apply_retpolines(s32 *, s32 *);
void apply_returns(s32 *, s32 *);
void apply_seal_endbr(s32 *, s32 *);
int cfi_parse_cmdline(char *);

/* What alternative.c needs of the rest of the kernel. All capabilities are clear. */
char boot_cpu_data[4096];
unsigned long __x86_return_thunk_place;
uint32_t get_random_u32(void) { return 0x9e3779b9; }
long copy_from_kernel_nofault(void *to, const void *from, size_t size) { memcpy(to, from, size); return 0; }
_Bool __static_call_fixup(void *tramp, unsigned char op, void *dest) { return 0; }
void static_call_force_reinit(void) {}
int _printk(const char *format, ...) { fputs(format + 2 * (*format == 1), stderr); return 0; }

/* Interrupts are switched off around each write, which a process may not do and need not. */
static void skip(int signal, siginfo_t *info, void *context)
{
	greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
	unsigned char *at = (unsigned char *)registers[REG_RIP];

	if (*at != 0xfa && *at != 0xfb)
		_exit(3);
	registers[REG_RIP]++;
}

int main(int count, char **words)
{
	struct sigaction action = { .sa_sigaction = skip, .sa_flags = SA_SIGINFO | SA_NODEFER };
	size_t size = image_end - image_start;
	FILE *out;

	if (count != 3 || sigaction(SIGSEGV, &action, NULL))
		return 1;
	if (mprotect(image_start, size, PROT_READ | PROT_WRITE | PROT_EXEC))
		return 2;
	cfi_parse_cmdline(words[1]);
	__apply_fineibt(__retpoline_sites, __retpoline_sites_end, __cfi_sites, __cfi_sites_end, 1);
	apply_retpolines(__retpoline_sites, __retpoline_sites_end);
	apply_returns(__return_sites, __return_sites_end);
	apply_seal_endbr(__ibt_endbr_seal, __ibt_endbr_seal_end);
	out = fopen(words[2], "wb");
	return !out || fwrite(image_start, 1, size, out) != size || fclose(out);
}
