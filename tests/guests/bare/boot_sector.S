/* A boot sector for tests of firmware. It reads the next sector of its disk by INT 13h, prints that sector's text and
 * a line, and then obeys single characters from COM1:
 *   n  count, and print "count=" with the last digit
 *   k  reset by the keyboard controller
 * Interrupts are off meanwhile, because the BIOS' timer interrupt also reads from COM1. */
	.code16
	.globl _start
_start:
	ljmpw $0, $1f
1:	xorw %ax, %ax
	movw %ax, %ds
	movw %ax, %es
	movw %ax, %ss
	movw $0x7c00, %sp
	movw $0x0201, %ax	/* read one sector: cylinder 0, head 0, sector 2 */
	movw $0x0002, %cx
	movb $0, %dh		/* dl: the drive, from the BIOS */
	movw $0x7e00, %bx
	int $0x13
	cli
	movw $0x7e00, %si
	jnc 2f
	movw $failed, %si
2:	call puts
	movw $ready, %si
	call puts
next:	movw $0x3fd, %dx
3:	inb %dx, %al
	testb $1, %al
	jz 3b
	movw $0x3f8, %dx
	inb %dx, %al
	cmpb $'n', %al
	je count
	cmpb $'k', %al
	jne next
	movb $0xfe, %al
	outb %al, $0x64
4:	jmp 4b
count:	incb digit
	movw $text, %si
	call puts
	jmp next
puts:	lodsb
	testb %al, %al
	jz 6f
	movw $0x3f8, %dx
	outb %al, %dx
	jmp puts
6:	ret
failed:	.asciz "INT 13h failed\r\n"
ready:	.asciz "boot sector ready\r\n"
text:	.ascii "count="
digit:	.asciz "0\r\n"
	.org 510
	.word 0xaa55
