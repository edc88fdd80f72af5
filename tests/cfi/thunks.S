/* SPDX-License-Identifier: GPL-2.0-only */
	.text
	.balign 64
	.globl __x86_return_thunk, __x86_indirect_thunk_array, __x86_indirect_thunk_r11
	.globl __x86_indirect_call_thunk_array, __x86_indirect_jump_thunk_array
	.globl __x86_indirect_its_thunk_array, its_return_thunk
__x86_return_thunk: ret
	.balign 64
__x86_indirect_thunk_array:
	.skip 11 * 32, 0xcc
__x86_indirect_thunk_r11: jmp *%r11
	.balign 32
	.skip 4 * 32, 0xcc
__x86_indirect_call_thunk_array:
__x86_indirect_jump_thunk_array:
__x86_indirect_its_thunk_array:
its_return_thunk: ud2
	.data
	.globl x86_return_thunk
x86_return_thunk: .quad __x86_return_thunk
	.section .note.GNU-stack,"",@progbits
