/* The beginning of flash_rom.c: from the reset vector to protected mode with flat segments and a stack. */
	.section .text.reset, "ax"
	.code16
	.globl _start
_start:
	movl $gdt_pointer, %ebx
	lgdtl %cs:(%bx)
	movl %cr0, %eax
	orb $1, %al
	movl %eax, %cr0
	ljmpl $0x08, $2f
	.code32
2:	movw $0x10, %ax
	movw %ax, %ds
	movw %ax, %es
	movw %ax, %ss
	movl $0x7000, %esp
	call rom_main
3:	jmp 3b
	.balign 8
gdt:	.quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
gdt_pointer:
	.word 23
	.long gdt

	.section .vector, "ax"
	.code16
	jmp _start	/* at 0xfffffff0 */
	.balign 16
