/* A hypervisor in the guest: "nest" makes the rest of the program its guest, and "unnest" ends that. The program
 * executes no CPUID in between, because the hypervisor handles only the call that ends its guest.
 * AMD64 Architecture Programmer's Manual volume 2, "Secure Virtual Machine"; Intel SDM volume 3, "Virtual Machine
 * Extensions". */
#include "bare.h"

#define CPUID_SVM (1u << 2)
#define MSR_EFER 0xc0000080
#define MSR_VM_HSAVE_PA 0xc0010117
#define EFER_SVME (1ULL << 12)
#define INTERCEPT_VMRUN 1u
#define INTERCEPT_VMMCALL 2u
#define EXIT_VMMCALL 0x81
#define CODE 0xa9b /* attributes of 64-bit code, and of data */
#define DATA 0xc93
#define KERNEL_CS 0x08
#define KERNEL_DS 0x10
#define DR7 0x400

#define CPUID_VMX (1u << 5)
#define CR4_VMXE (1ULL << 13)
#define MSR_FEATURE_CONTROL 0x3a
#define MSR_VMX_BASIC 0x480
#define MSR_VMX_TRUE_PIN 0x48d
#define MSR_VMX_TRUE_PROCESSOR 0x48e
#define MSR_VMX_TRUE_EXIT 0x48f
#define MSR_VMX_TRUE_ENTRY 0x490
#define EXIT_VMCALL 18
#define LONG_MODE (1u << 9) /* of the hypervisor in the exit's controls, of the guest in the entry's */
#define VMX_CODE 0xa09b	    /* the attributes, with a gap */
#define VMX_DATA 0xc093
#define VMX_TASK 0x8b
#define VMX_UNUSABLE (1u << 16)

/* Fields of a VMCS: Intel SDM volume 3, appendix B. */
enum {
	GUEST_SELECTOR = 0x800, HOST_CS = 0xc02, HOST_TR = 0xc0c, VMCS_LINK = 0x2800, PIN_CONTROLS = 0x4000,
	PROCESSOR_CONTROLS = 0x4002, EXIT_CONTROLS = 0x400c, ENTRY_CONTROLS = 0x4012, EXIT_REASON = 0x4402,
	GUEST_LIMIT = 0x4800, GUEST_GDTR_LIMIT = 0x4810, GUEST_IDTR_LIMIT = 0x4812, GUEST_RIGHTS = 0x4814,
	GUEST_CR0 = 0x6800, GUEST_CR3 = 0x6802, GUEST_CR4 = 0x6804, GUEST_BASE = 0x6806, GUEST_GDTR_BASE = 0x6816,
	GUEST_IDTR_BASE = 0x6818, GUEST_DR7 = 0x681a, GUEST_RSP = 0x681c, GUEST_RIP = 0x681e, GUEST_RFLAGS = 0x6820,
	HOST_CR0 = 0x6c00, HOST_CR3 = 0x6c02, HOST_CR4 = 0x6c04, HOST_TR_BASE = 0x6c0a, HOST_GDTR_BASE = 0x6c0c,
	HOST_IDTR_BASE = 0x6c0e, HOST_RSP = 0x6c14, HOST_RIP = 0x6c16
};

struct segment {
	uint16_t selector, attributes;
	uint32_t limit;
	uint64_t base;
};

struct table_pointer {
	uint16_t limit;
	uint64_t base;
} __attribute__((packed));

/* The virtual machine control block, with the offsets of the manual's appendix B; VMX: the VMCS. */
static struct {
	uint8_t before[0x10];
	uint32_t intercepts;
	uint8_t before_asid[0x58 - 0x14];
	uint32_t asid;
	uint8_t before_code[0x70 - 0x5c];
	uint64_t exit_code;
	uint8_t before_state[0x400 - 0x78];
	struct segment es, cs, ss, ds, fs, gs, gdtr, ldtr, idtr, tr;
	uint8_t before_efer[0x4d0 - 0x4a0];
	uint64_t efer;
	uint8_t before_cr4[0x548 - 0x4d8];
	uint64_t cr4, cr3, cr0, dr7, dr6, rflags, rip;
	uint8_t before_rsp[0x5d8 - 0x580];
	uint64_t rsp;
	uint8_t after[0x1000 - 0x5e0];
} control __attribute__((aligned(4096)));
_Static_assert(sizeof(control) == 4096, "a page");

static uint8_t host_save[4096] __attribute__((aligned(4096))); /* VMX: the VMXON region */
static uint64_t exit_code __attribute__((used)); /* why the last nested guest ended; 0: none did */
static bool is_vmx;

static uint64_t cr0_read(void)
{
	uint64_t v;

	__asm__ volatile("mov %%cr0, %0" : "=r"(v));
	return v;
}

static uint64_t cr3_read(void)
{
	uint64_t v;

	__asm__ volatile("mov %%cr3, %0" : "=r"(v));
	return v;
}

static uint64_t cr4_read(void)
{
	uint64_t v;

	__asm__ volatile("mov %%cr4, %0" : "=r"(v));
	return v;
}

static void msr_write(uint32_t index, uint64_t v)
{
	struct kernel_regs r = {.leaf = index, .eax = (uint32_t)v, .edx = (uint32_t)(v >> 32)};

	kernel_wrmsr((uint64_t)&r);
}

/* ---- AMD ---- */

/* Go on as the nested guest. When it executes VMMCALL, go on behind that instruction without it: the processor loads
 * the hypervisor's registers except the general ones, which stay the guest's. */
static void svm_guest_enter(void)
{
	__asm__ volatile(
		"pushfq\n\t"
		"pop %c[rflags](%[control])\n\t"
		"lea 1f(%%rip), %%rcx\n\t"
		"mov %%rcx, %c[rip](%[control])\n\t"
		"mov %%rsp, %c[rsp](%[control])\n\t"
		"mov %[control], %%rax\n\t"
		"vmrun %%rax\n\t"
		"mov %c[code](%%rax), %%rcx\n\t"
		"mov %%rcx, exit_code(%%rip)\n\t"
		"mov %c[rsp](%%rax), %%rsp\n\t"
		"mov %c[rip](%%rax), %%rcx\n\t"
		"add $3, %%rcx\n\t"
		"stgi\n\t"
		"jmp *%%rcx\n"
		"1:"
		:
		: [control] "r"(&control), [rflags] "i"(offsetof(typeof(control), rflags)),
		[rip] "i"(offsetof(typeof(control), rip)), [rsp] "i"(offsetof(typeof(control), rsp)),
		[code] "i"(offsetof(typeof(control), exit_code))
		: "rax", "rcx", "memory", "cc");
}

static uint64_t kernel_nest_svm(uint64_t unused)
{
	struct table_pointer segments, interrupts;

	memset(&control, 0, sizeof(control));
	control.intercepts = INTERCEPT_VMRUN | INTERCEPT_VMMCALL;
	control.asid = 1;
	control.cs = (struct segment){KERNEL_CS, CODE, 0xffffffff, 0};
	control.ss = control.ds = control.es = (struct segment){KERNEL_DS, DATA, 0xffffffff, 0};
	__asm__ volatile("sgdt %0" : "=m"(segments));
	__asm__ volatile("sidt %0" : "=m"(interrupts));
	control.gdtr = (struct segment){0, 0, segments.limit, segments.base};
	control.idtr = (struct segment){0, 0, interrupts.limit, interrupts.base};
	control.cr0 = cr0_read();
	control.cr3 = cr3_read();
	control.cr4 = cr4_read();
	control.dr6 = 0xffff0ff0;
	control.dr7 = DR7;
	msr_write(MSR_EFER, kernel_rdmsr(MSR_EFER) | EFER_SVME);
	msr_write(MSR_VM_HSAVE_PA, (uint64_t)host_save);
	control.efer = kernel_rdmsr(MSR_EFER);
	svm_guest_enter();
	return unused;
}

/* ---- Intel ---- */

static void field_write(uint32_t field, uint64_t v)
{
	__asm__ volatile("vmwrite %1, %0" : : "r"((uint64_t)field), "r"(v) : "cc");
}

/* Write controls with these bits, and those that the processor wants. */
static void controls_write(uint32_t field, uint32_t capability_msr, uint32_t bits)
{
	field_write(field, (uint32_t)kernel_rdmsr(capability_msr) | bits);
}

static uint64_t task_base(const struct table_pointer *t, uint16_t selector)
{
	const uint64_t *d = (const uint64_t *)(t->base + selector);

	return (d[0] >> 16 & 0xffffff) | (d[0] >> 32 & 0xff000000) | d[1] << 32;
}

/* Segments of the hypervisor and of its guest. The fields of the segments ES, CS, SS, DS, FS, GS, LDTR and TR follow
 * each other. */
static void vmx_segments_write(void)
{
	struct table_pointer segments, interrupts;
	uint16_t tr;

	__asm__ volatile("sgdt %0" : "=m"(segments));
	__asm__ volatile("sidt %0" : "=m"(interrupts));
	__asm__ volatile("str %0" : "=r"(tr));
	for (uint32_t i = 0; i < 8; i++) {
		uint32_t used = i < 4;

		field_write(GUEST_SELECTOR + 2 * i, i == 1 ? KERNEL_CS : i == 7 ? tr : used ? KERNEL_DS : 0);
		field_write(GUEST_LIMIT + 2 * i, i == 7 ? 0x67 : 0xffffffff);
		field_write(GUEST_RIGHTS + 2 * i, i == 1 ? VMX_CODE : i == 7 ? VMX_TASK : used ? VMX_DATA : VMX_UNUSABLE);
		field_write(GUEST_BASE + 2 * i, i == 7 ? task_base(&segments, tr) : 0);
	}
	field_write(HOST_CS, KERNEL_CS);
	field_write(HOST_TR, tr);
	field_write(HOST_TR_BASE, task_base(&segments, tr));
	field_write(GUEST_GDTR_LIMIT, segments.limit);
	field_write(GUEST_IDTR_LIMIT, interrupts.limit);
	field_write(GUEST_GDTR_BASE, segments.base);
	field_write(GUEST_IDTR_BASE, interrupts.base);
	field_write(HOST_GDTR_BASE, segments.base);
	field_write(HOST_IDTR_BASE, interrupts.base);
}

/* As svm_guest_enter(). The processor takes the hypervisor's RIP and RSP from the VMCS. */
static void vmx_guest_enter(void)
{
	__asm__ volatile(
		"lea 2f(%%rip), %%rax\n\t"
		"vmwrite %%rax, %[host_rip]\n\t"
		"lea 1f(%%rip), %%rax\n\t"
		"vmwrite %%rax, %[rip]\n\t"
		"vmwrite %%rsp, %[rsp]\n\t"
		"vmwrite %%rsp, %[host_rsp]\n\t"
		"vmlaunch\n\t"
		"movl $1, exit_code(%%rip)\n\t" /* it failed */
		"jmp 1f\n"
		"2:\n\t"
		"mov %[code], %%ecx\n\t"
		"vmread %%rcx, %%rax\n\t"
		"mov %%rax, exit_code(%%rip)\n\t"
		"mov %[rsp_field], %%ecx\n\t"
		"vmread %%rcx, %%rsp\n\t"
		"mov %[rip_field], %%ecx\n\t"
		"vmread %%rcx, %%rax\n\t"
		"add $3, %%rax\n\t"
		"vmxoff\n\t"
		"jmp *%%rax\n"
		"1:"
		:
		: [host_rip] "r"((uint64_t)HOST_RIP), [rip] "r"((uint64_t)GUEST_RIP), [rsp] "r"((uint64_t)GUEST_RSP),
		[host_rsp] "r"((uint64_t)HOST_RSP), [code] "i"(EXIT_REASON), [rsp_field] "i"(GUEST_RSP), [rip_field] "i"(GUEST_RIP)
		: "rax", "rcx", "memory", "cc");
}

static uint64_t kernel_nest_vmx(uint64_t unused)
{
	uint64_t on = (uint64_t)host_save, vmcs = (uint64_t)&control;
	uint64_t cr0 = cr0_read(), cr3 = cr3_read(), cr4 = cr4_read() | CR4_VMXE;

	memset(&control, 0, sizeof(control));
	*(uint32_t *)on = *(uint32_t *)vmcs = (uint32_t)kernel_rdmsr(MSR_VMX_BASIC);
	if (!(kernel_rdmsr(MSR_FEATURE_CONTROL) & 1))
		msr_write(MSR_FEATURE_CONTROL, 5); /* VMX outside SMX, and no more changes */
	__asm__ volatile("mov %0, %%cr4" : : "r"(cr4));
	__asm__ volatile("vmxon %0" : : "m"(on) : "cc", "memory");
	__asm__ volatile("vmclear %0" : : "m"(vmcs) : "cc", "memory");
	__asm__ volatile("vmptrld %0" : : "m"(vmcs) : "cc", "memory");
	controls_write(PIN_CONTROLS, MSR_VMX_TRUE_PIN, 0);
	controls_write(PROCESSOR_CONTROLS, MSR_VMX_TRUE_PROCESSOR, 0);
	controls_write(EXIT_CONTROLS, MSR_VMX_TRUE_EXIT, LONG_MODE);
	controls_write(ENTRY_CONTROLS, MSR_VMX_TRUE_ENTRY, LONG_MODE);
	field_write(VMCS_LINK, ~0ULL);
	field_write(GUEST_CR0, cr0);
	field_write(GUEST_CR3, cr3);
	field_write(GUEST_CR4, cr4);
	field_write(GUEST_DR7, DR7);
	field_write(GUEST_RFLAGS, 2);
	field_write(HOST_CR0, cr0);
	field_write(HOST_CR3, cr3);
	field_write(HOST_CR4, cr4);
	vmx_segments_write();
	vmx_guest_enter();
	return unused;
}

/* ---- both ---- */

/* Without a hypervisor in the guest, KVM itself answers this call: with an error. */
static uint64_t kernel_unnest(uint64_t unused)
{
	uint64_t rax = ~0ULL;

	if (is_vmx)
		__asm__ volatile("vmcall" : "+a"(rax) : : "rcx", "memory", "cc");
	else
		__asm__ volatile("vmmcall" : "+a"(rax) : : "rcx", "memory", "cc");
	return unused;
}

static bool has_feature(uint32_t leaf, uint32_t bit)
{
	uint32_t eax = leaf, ebx, ecx = 0, edx;

	__asm__ volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
	return ecx & bit;
}

static const char *cmd_nest(const struct args *a)
{
	(void)a;
	exit_code = 0;
	is_vmx = has_feature(1, CPUID_VMX);
	if (!is_vmx && !has_feature(0x80000001, CPUID_SVM))
		return "the processor has neither VMX nor SVM";
	kcall(is_vmx ? kernel_nest_vmx : kernel_nest_svm, 0);
	return exit_code ? "the guest has ended" : NULL;
}

static const char *cmd_unnest(const struct args *a)
{
	(void)a;
	exit_code = 0;
	kcall(kernel_unnest, 0);
	return exit_code == (is_vmx ? EXIT_VMCALL : EXIT_VMMCALL) ? NULL : "no hypervisor of the guest's was called";
}

const struct command nested_commands[] = {
	{"nest", 0, 0, "", cmd_nest},
	{"unnest", 0, 0, "", cmd_unnest},
	{0},
};
