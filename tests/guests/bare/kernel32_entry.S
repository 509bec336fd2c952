/* A kernel of 32 bits for tests of boot protocols. The same file is an ELF file with a Multiboot header of version 1, or 2
 * with MULTIBOOT_2, and without its ELF headers a file with addresses in that header, or the part of a bzImage behind
 * kernel32_setup.S. */
	.section .text.start, "ax"
	.code32
	.globl start32
start32:
	jmp 1f

	.balign 8
header:
#ifdef MULTIBOOT_2
	.long 0xe85250d6, 0, header_end - header, -(0xe85250d6 + header_end - header)
	.word 1, 0			/* information: command line, module, memory, map, RSDP */
	.long 28, 1, 3, 4, 6, 15
	.balign 8
	.word 2, 0			/* addresses */
	.long 24, header, start32, data_end, bss_end
	.word 3, 0			/* entry */
	.long 12, start32, 0
	.word 0, 0
	.long 8
#else
	.long 0x1badb002, 0x10003, -(0x1badb002 + 0x10003)
	.long header, start32, data_end, bss_end, start32
#endif
header_end:

1:	mov $stack_top, %esp
	push %esi
	push %ebx
	push %eax
	call kernel32_main
	cli
2:	hlt
	jmp 2b

	.bss
	.balign 16
	.skip 8192
stack_top:
	.section .note.GNU-stack, "", @progbits
