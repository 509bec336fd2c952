/* From PVH's 32-bit entry to long mode, traps, CPL 3 and application processors.
 *
 * Memory is mapped one to one with 2 MiB pages that user code may touch. The program proper
 * (main) runs at CPL 3 with IOPL 3, because on a PVM host only that is fast; code that needs
 * CPL 0 is called through kcall(), which is a ud2 at a known address. */
#define MSR_EFER 0xc0000080
#define CODE64 0x08
#define DATA 0x10
#define CODE32 0x28
#define TRAMPOLINE 0x8000

	.section .note.pvh, "a", @note
	.long 4, 4, 18			/* name size, descriptor size, XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz "Xen"
	.long entry32

	.section .text.start, "ax"
	.code32
	.globl entry32
entry32:
	cld
	cli
	mov %ebx, start_info_gpa
	lgdt gdt_pointer
	ljmp $CODE32, $1f
1:	mov $2f, %esi
	jmp long_mode
	.code64
2:	lea boot_stack_top(%rip), %rsp
	xor %edi, %edi
	call kernel_main
	ud2

/* Switch to long mode and jump to the 64-bit address in ESI. Uses no stack. */
	.code32
long_mode:
	mov $DATA, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	mov $pml4, %eax
	mov %eax, %cr3
	mov $0x620, %eax		/* PAE, OSFXSR, OSXMMEXCPT */
	mov %eax, %cr4
	mov $MSR_EFER, %ecx
	rdmsr
	or $0x901, %eax			/* NXE, LME, SCE */
	wrmsr
	mov $0x80000033, %eax		/* PG, NE, ET, MP, PE: x87 without traps */
	mov %eax, %cr0
	ljmp $CODE64, $1f
	.code64
1:	mov %esi, %esi
	jmp *%rsi

/* ---- application processors: copied to TRAMPOLINE, started there in real mode ---- */
	.code16
	.globl ap_trampoline, ap_trampoline_end
ap_trampoline:
	cli
	cld
	mov %cs, %ax
	mov %ax, %ds
	lgdtl (ap_gdt_pointer - ap_trampoline)
	mov $0x11, %eax
	mov %eax, %cr0
	ljmpl $CODE32, $ap32
	.balign 4
ap_gdt_pointer:
	.word gdt_end - gdt - 1
	.long gdt
ap_trampoline_end:

	.code32
ap32:	mov $1f, %esi
	jmp long_mode
	.code64
1:	mov $0xfee00020, %eax		/* the local APIC's id selects the stack */
	mov (%rax), %edi
	shr $24, %edi
	and $63, %edi
	lea 1(%rdi), %rsp
	shl $11, %rsp
	add $ap_stacks, %rsp
	call ap_main
	ud2

/* void user_enter(void (*fn)(uint64_t), uint64_t arg, void *stack_top): call fn(arg) at CPL 3. Never returns. */
	.globl user_enter
user_enter:
	pushq $0x1b
	push %rdx
	pushq $0x3202			/* IOPL 3, IF */
	pushq $0x23
	push %rdi
	mov %rsi, %rdi
	xor %ebp, %ebp
	iretq

/* uint64_t kcall(uint64_t (*fn)(uint64_t), uint64_t arg): call fn(arg) at CPL 0 and return its result. */
	.globl kcall, kcall_gate
kcall:
kcall_gate:
	ud2
	ret

/* void kernel_wait(void): sleep until an interrupt. Call it at CPL 0 with interrupts off; it returns with
 * them off. sti holds interrupts off until the hlt has begun, so the guest misses no interrupt. */
	.globl kernel_wait
kernel_wait:
	sti
	hlt
	cli
	ret

/* Count in an endless loop without a stack, on application processors. RDI: the counter. */
	.globl count_loop
count_loop:
	lock incq (%rdi)
	jmp count_loop

/* The target of LSTAR, in a page that only the kernel may touch. Counts the call and returns. Runs at
 * CPL 0 on the user's stack. */
	.globl syscall_entry
syscall_entry:
	cld
	incq syscall_count
	sysretq

/* ---- traps ---- */
/* Each stub starts with cld: on a PVM host the assist steps over an entry's first
 * instruction, and it knows this one. */
	.set vector, 0
	.globl trap_stubs
	.balign 16
trap_stubs:
	.rept 256
	.balign 16
	cld
	.if (vector != 8) && (vector != 10) && (vector != 11) && (vector != 12) && (vector != 13) && (vector != 14) && (vector != 17)
	pushq $0
	.endif
	pushq $vector
	jmp trap_common
	.set vector, vector + 1
	.endr

trap_common:			/* pushes the fields of struct trap_frame, last first */
	push %rax
	push %rcx
	push %rdx
	push %rbx
	push %rbp
	push %rsi
	push %rdi
	push %r8
	push %r9
	push %r10
	push %r11
	push %r12
	push %r13
	push %r14
	push %r15
	mov %rsp, %rdi
	call trap
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %r11
	pop %r10
	pop %r9
	pop %r8
	pop %rdi
	pop %rsi
	pop %rbp
	pop %rbx
	pop %rdx
	pop %rcx
	pop %rax
	add $16, %rsp
	iretq

/* ---- tables ---- */
	.data
	.balign 4096
	.globl pml4, pdpt, pd
pml4:	.quad pdpt + 7
	.fill 511, 8, 0
pdpt:	.quad pd + 7, pd + 0x1007, pd + 0x2007, pd + 0x3007
	.fill 508, 8, 0
	.set page, 0
pd:	.rept 2048
	.quad (page << 21) | 0x87	/* present, writable, user, 2 MiB */
	.set page, page + 1
	.endr

	.balign 16
	.globl gdt
gdt:	.quad 0
	.quad 0x00af9b000000ffff	/* 0x08 kernel code */
	.quad 0x00cf93000000ffff	/* 0x10 kernel data */
	.quad 0x00cff3000000ffff	/* 0x18 user data */
	.quad 0x00affb000000ffff	/* 0x20 user code */
	.quad 0x00cf9b000000ffff	/* 0x28 32-bit kernel code */
	.fill 64 * 2, 8, 0		/* 0x30 a TSS for each of 64 processors */
gdt_end:
gdt_pointer:
	.word gdt_end - gdt - 1
	.quad gdt

	.bss
	.balign 16
	.globl start_info_gpa, syscall_count
start_info_gpa:
	.skip 8
syscall_count:
	.skip 8
	.skip 8192
boot_stack_top:
	.balign 4096
ap_stacks:
	.skip 64 * 2048

	.section .note.GNU-stack, "", @progbits
