/* A small guest in 32-bit mode with PAE: one byte on the serial port, and then each byte that comes. Its saved states have
 * the page directory pointers. */
#define CR0_PG 0x80000000
#define CR4_PAE 0x20
#define COM1 0x3f8
#define LSR 5
#define LSR_DATA 1

	.section .note.pvh, "a", @note
	.long 4, 4, 18			/* name size, descriptor size, XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz "Xen"
	.long entry32

	.text
	.code32
	.globl entry32
entry32:
	cli
	mov $pdpt, %eax
	mov %eax, %cr3
	mov $CR4_PAE, %eax
	mov %eax, %cr4
	mov %cr0, %eax
	or $CR0_PG, %eax
	mov %eax, %cr0
	mov $'A', %al
1:	mov $COM1, %edx
	out %al, %dx
2:	mov $(COM1 + LSR), %edx
	in %dx, %al
	test $LSR_DATA, %al
	jz 2b
	mov $COM1, %edx
	in %dx, %al
	jmp 1b

	.data
	.balign 4096
	.set page, 0
pd:	.rept 512
	.quad (page << 21) | 0x83	/* present, writable, 2 MiB */
	.set page, page + 1
	.endr
	.balign 32
pdpt:	.quad pd + 1, 0, 0, 0

	.section .note.GNU-stack, "", @progbits
