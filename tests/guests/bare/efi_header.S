/* The headers of efi_app.c as a PE32+ file (Microsoft's PE format, revision 11) of one section, with the offsets in the
 * file and in memory the same. */
	.section .header, "a"
	.globl _start
	.word 0x5a4d		/* "MZ" */
	.fill 58, 1, 0
	.long pe - base
base = . - 64
pe:	.ascii "PE\0\0"
	.word 0x8664, 1		/* x86-64, one section */
	.long 0, 0, 0
	.word section - optional
	.word 0x0206		/* no symbols, no line numbers, an executable */
optional:
	.word 0x20b		/* PE32+ */
	.byte 0, 0
	.long image_bytes, 0, 0
	.long entry_at, 0x1000
	.quad 0
	.long 0x1000, 0x1000	/* alignment in memory and in the file */
	.word 0, 0, 0, 0, 0, 0
	.long 0, image_end, 0x1000, 0
	.word 10, 0		/* an EFI application */
	.quad 0, 0, 0, 0
	.long 0, 6
	.fill 6, 8, 0
section:
	.ascii ".text\0\0\0"
	.long image_bytes, 0x1000, image_bytes, 0x1000
	.long 0, 0
	.word 0, 0
	.long 0xe0000020
