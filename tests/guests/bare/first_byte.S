/* The smallest guest: one byte on the serial port, then nothing. For the `start` figure. */
	.section .note.pvh, "a", @note
	.long 4, 4, 18			/* name size, descriptor size, XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz "Xen"
	.long entry32

	.text
	.code32
	.globl entry32
entry32:
	mov $0x3f8, %edx
	mov $'A', %al
	out %al, %dx
	cli
1:	hlt
	jmp 1b

	.section .note.GNU-stack, "", @progbits
