/* The first two sectors of a bzImage that has only a 32-bit entry, by boot protocol 2.10 (Documentation/arch/x86/boot.rst). */
	.text
	.code16
	.org 0x1f1
	.byte 1				/* sectors behind this one */
	.word 0
	.long (KERNEL_BYTES + 15) / 16
	.org 0x1fe
	.word 0xaa55
	jmp header_end
	.ascii "HdrS"
	.word 0x20a
	.org 0x211
	.byte 1				/* loaded high */
	.org 0x214
	.long 0x100000
	.org 0x22c
	.long 0x7fffffff		/* the last address of an initrd */
	.long 0x1000			/* alignment */
	.byte 0				/* not relocatable */
	.org 0x238
	.long 255			/* length of the command line */
	.org 0x258
	.quad 0x100000
	.long 0x100000			/* room for bss and stack */
header_end:
	.org 0x400
	.section .note.GNU-stack, "", @progbits
