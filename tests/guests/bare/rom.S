/* A BIOS for tests, of 128 KiB, with SeaBIOS' memset(), which the assist carries out where KVM emulates kernel mode. It
 * prints on COM1
 *   memset ok     3 MiB and 5 bytes are filled, and nothing beside them; none are filled if none are asked for
 *   step ok       an instruction raised the debug exception that the trap flag asks for, and no other did
 *   memset ok     the same again, after the guest's own debug exceptions
 * or "wrong" instead, and then stops at HLT. After the last line it obeys characters from COM1:
 *   f and a byte  fill 64 KiB at 8 MiB with the byte, by memset(); answer "filled"
 *   r             answer with the first of these bytes, and a line's end
 *   h             write a line to the firmware's debug port, and halt with interrupts off */
	.code16
	.globl _start
	.equ SEGMENT, 0xf0000
	.equ AT, 0x200000
	.equ BYTES, 0x300005
	.equ BLOCK, 0x800000
	.equ BLOCK_BYTES, 0x10000
	.equ STEP, 0x100000	/* the assist's (MEMSET_STEP) */
_start:	.org 0x10000	/* the segment of the reset vector */
start16:
	cli
	cld
	lgdtl %cs:(gdtr - SEGMENT)
	movl %cr0, %eax
	orb $1, %al
	movl %eax, %cr0
	ljmpl $8, $start32

	.code32
start32:
	movw $16, %ax
	movw %ax, %ds
	movw %ax, %es
	movw %ax, %ss
	movl $0x8000, %esp
	call fill
	call trap
	call fill
1:	call take
	cmpb $'f', %al
	je obey_fill
	cmpb $'h', %al
	je obey_halt
	cmpb $'r', %al
	jne 1b
	movb BLOCK, %al
	outb %al, %dx
	movl $line_end, %esi
	jmp obeyed
obey_fill:
	call take
	movl %eax, %ebx
	movl $BLOCK, %eax
	movb %bl, %dl
	movl $BLOCK_BYTES, %ecx
	call memset
	movl $filled, %esi
obeyed:	call puts
	jmp 1b

obey_halt:
	movw $0x402, %dx
	inb %dx, %al
	cmpb $0xe9, %al	/* the port exists */
	jne wrong
	movl $halts, %esi
1:	lodsb
	testb %al, %al
	jz 2f
	outb %al, %dx
	jmp 1b
2:	cli
	hlt
	jmp 2b

/* Wait for a character from COM1. It is in al; dx is the port. */
take:	movw $0x3fd, %dx	/* the line status register; bit 0: there is one */
	inb %dx, %al
	testb $1, %al
	jz take
	movw $0x3f8, %dx
	inb %dx, %al
	ret

/* eax: address, dl: byte, ecx: how many */
memset:	testl %ecx, %ecx
	je 1f
	decl %ecx
	movb %dl, (%eax,%ecx)
	jmp memset
1:	ret

fill:	movl $AT, %eax
	movb $0x11, -1(%eax)
	movb $0x22, BYTES(%eax)
	movb $0x33, (%eax)
	xorl %ecx, %ecx
	movb $0xab, %dl
	call memset
	cmpb $0x33, AT
	jne wrong
	incb %dl
	movl $BYTES, %ecx
	call memset
	testl %ecx, %ecx
	jne wrong
	cmpl $AT, %eax
	jne wrong
	cmpb $0x11, AT - 1
	jne wrong
	cmpb $0x22, AT + BYTES
	jne wrong
	movl $places, %esi
1:	lodsl
	testl %eax, %eax
	jz 2f
	cmpb $0xac, (%eax)
	jne wrong
	movb $0, (%eax)
	jmp 1b
2:	movl $memset_ok, %esi
	jmp puts

/* The first and the last byte, and those around the ends of the assist's steps */
places:	.long AT, AT + BYTES - 1, AT + BYTES - STEP, AT + BYTES - STEP - 1, AT + BYTES - 2 * STEP, AT + BYTES - 2 * STEP - 1
	.long AT + 4, AT + 5, 0

trap:	lidt idtr
	movl $0x9000, %edi
	movl $0, (%edi)	/* how many debug exceptions */
	movw $debugged - SEGMENT, 0x9100 + 8	/* the gate of vector 1 */
	movw $8, 0x9100 + 10
	movw $0x8e00, 0x9100 + 12
	movw $SEGMENT >> 16, 0x9100 + 14
	pushfl
	orl $0x100, (%esp)
	popfl
	nop	/* the exception comes after this one */
after:	nop
	cmpl $1, (%edi)
	jne wrong
	movl $step_ok, %esi
	jmp puts

/* Return without the trap flag, and without IRET, which KVM does not emulate here. */
debugged:
	incl (%edi)
	movl %dr6, %eax
	testl $0x4000, %eax	/* a single step */
	jz wrong
	popl %eax
	cmpl $after, %eax
	jne wrong
	addl $4, %esp
	andl $~0x100, (%esp)
	popfl
	jmp *%eax

wrong:	movl $wrong_text, %esi
	call puts
1:	hlt
	jmp 1b

puts:	lodsb
	testb %al, %al
	jz 1f
	movw $0x3f8, %dx
	outb %al, %dx
	jmp puts
1:	ret

memset_ok: .asciz "memset ok\r\n"
step_ok:   .asciz "step ok\r\n"
wrong_text: .asciz "wrong\r\n"
halts:	.asciz "the guest halts\n"
filled:	.asciz "filled\r\n"
line_end: .asciz "\r\n"
	.balign 8
gdt:	.quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
gdtr:	.word gdtr - gdt - 1
	.long gdt
idtr:	.word 15
	.long 0x9100

	.org 0x1fff0
	.code16
	ljmp $0xf000, $start16 - SEGMENT
	.org 0x20000
