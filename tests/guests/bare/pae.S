/* uint8_t pae_read(uint64_t address, uint64_t pdpt, uint64_t new_entry): in 32-bit mode with PAE, replace the last
 * entry of pdpt in memory, wait for a byte on the serial port, and return the byte at address. Runs at CPL 0 with
 * interrupts off. */
#define MSR_EFER 0xc0000080
#define CODE64 0x08
#define DATA 0x10
#define CODE32 0x28

	.text
	.globl pae_read
pae_read:
	push %rbx
	push %rbp
	mov %rsp, saved_rsp
	mov %edx, %ebp
	pushq $CODE32
	pushq $1f
	lretq
	.code32
1:	mov $DATA, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	mov %cr0, %eax
	and $0x7fffffff, %eax
	mov %eax, %cr0
	mov $MSR_EFER, %ecx
	rdmsr
	and $~0x100, %eax
	wrmsr
	mov %esi, %cr3
	mov %cr0, %eax
	or $0x80000000, %eax
	mov %eax, %cr0
	mov %ebp, 24(%esi)
2:	mov $0x3fd, %edx
	in %dx, %al
	test $1, %al
	jz 2b
	mov $0x3f8, %edx
	in %dx, %al
	invlpg (%edi)
	movzbl (%edi), %ebx
	mov %cr0, %eax
	and $0x7fffffff, %eax
	mov %eax, %cr0
	mov $MSR_EFER, %ecx
	rdmsr
	or $0x100, %eax
	wrmsr
	mov $pml4, %eax
	mov %eax, %cr3
	mov %cr0, %eax
	or $0x80000000, %eax
	mov %eax, %cr0
	ljmp $CODE64, $3f
	.code64
3:	mov saved_rsp, %rsp
	mov %ebx, %eax
	pop %rbp
	pop %rbx
	ret

	.bss
	.balign 8
saved_rsp:
	.skip 8
	.section .note.GNU-stack, "", @progbits
