#include "base/kvm_host.h"
#include "base/cpuid.h"

#include <cpuid.h>
#include <errno.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define LEAF7_ECX_SHADOW_STACK (1u << 7)

int kvm_ioctl(int fd, unsigned long req, void *arg)
{
	int r;

	do {
		r = ioctl(fd, req, arg);
	} while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : r;
}

/* ---- the leaves that KVM supports ---- */

struct kvm_cpuid2 *kvm_cpuid_new(const struct cpuid *from)
{
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + from->n * sizeof(c->entries[0]));

	for (uint32_t i = 0; c && i < from->n; i++) {
		const struct cpuid_leaf *l = &from->leaf[i];

		c->entries[i] = (struct kvm_cpuid_entry2){ .function = l->function, .index = l->index, .flags = l->flags,
			.eax = l->reg[CPUID_EAX], .ebx = l->reg[CPUID_EBX], .ecx = l->reg[CPUID_ECX], .edx = l->reg[CPUID_EDX] };
	}
	if (c)
		c->nent = from->n;
	return c;
}

static struct cpuid_leaf *leaf_add(struct cpuid *c, uint32_t function, uint32_t index, uint32_t flags)
{
	c->leaf[c->n] = (struct cpuid_leaf){ .function = function, .index = index, .flags = flags };
	return &c->leaf[c->n++];
}

/* Add sub-leaf 1 of a leaf of topology: the second level, the cores of a package. */
static void cores_level_add(struct cpuid *c, uint32_t function)
{
	if (c->n < CPUID_LEAVES_MAX && cpuid_find(c, function, 0) && !cpuid_find(c, function, 1))
		leaf_add(c, function, 1, CPUID_FLAG_INDEX);
}

void kvm_cpuid_adjust(struct cpuid *c)
{
	cores_level_add(c, 0xb);
	cores_level_add(c, 0x1f);
	for (struct cpuid_leaf *l = c->leaf; l < c->leaf + c->n; l++)
		if (l->function == 7 && !l->index)
			l->reg[CPUID_ECX] &= ~LEAF7_ECX_SHADOW_STACK;
}

int kvm_cpuid_read(int kvm_fd, struct cpuid **ret)
{
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + CPUID_LEAVES_MAX * sizeof(c->entries[0]));
	struct cpuid *read = NULL;
	int r;

	if (!c)
		return -ENOMEM;
	c->nent = CPUID_LEAVES_MAX;
	r = kvm_ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, c);
	if (!r && !(read = cpuid_new(c->nent + 2)))
		r = -ENOMEM;
	if (!r)
		read->n = 0;
	for (uint32_t i = 0; !r && i < c->nent; i++) {
		const struct kvm_cpuid_entry2 *from = &c->entries[i];
		struct cpuid_leaf *l = leaf_add(read, from->function, from->index, from->flags);

		memcpy(l->reg, (const uint32_t[]){ from->eax, from->ebx, from->ecx, from->edx }, sizeof(l->reg));
		cpuid_leaf_strip_id(l);
	}
	free(c);
	if (r < 0)
		return r;
	kvm_cpuid_adjust(read);
	*ret = read;
	return r;
}

/* ---- a guest that runs CPUID ---- */

/* The guest's memory: four page tables, the code, one page for the GDT. */
#define RAM_BYTES 0x10000u
#define PML4_GPA 0x1000u
#define PDPT_GPA 0x2000u
#define PD_GPA 0x3000u
#define PT_GPA 0x4000u
#define CODE_GPA 0x5000u
#define GDT_GPA 0x6000u
#define PTE_USER_WRITABLE 7u
#define USER_CODE 0x1bu
#define USER_DATA 0x23u
#define PORT 0x10u
#define FLAGS_IOPL_3 0x3002u /* user mode may use ports */
/* The signature (EAX of leaf 1) that KVM_SET_CPUID2 gets; no processor has it. */
#define SIGNATURE 0x00012345u
/* Features that are cleared in ECX of leaf 1: sse3, ssse3, cx16, sse4_1, sse4_2, popcnt. Each processor on which
 * kvm-pvm, a KVM without hardware virtualisation, runs has some of them. */
#define HIDDEN_FEATURES (1u << 0 | 1u << 9 | 1u << 13 | 1u << 19 | 1u << 20 | 1u << 23)

/* mov eax, 1; xor ecx, ecx; cpuid; out PORT, eax; mov eax, ecx; out PORT, eax */
static const uint8_t code[] = { 0xb8, 1, 0, 0, 0, 0x31, 0xc9, 0x0f, 0xa2, 0xe7, PORT, 0x89, 0xc8, 0xe7, PORT };

static void tables_write(uint8_t *ram)
{
	uint64_t *pt = (void *)(ram + PT_GPA);

	*(uint64_t *)(void *)(ram + PML4_GPA) = PDPT_GPA | PTE_USER_WRITABLE;
	*(uint64_t *)(void *)(ram + PDPT_GPA) = PD_GPA | PTE_USER_WRITABLE;
	*(uint64_t *)(void *)(ram + PD_GPA) = PT_GPA | PTE_USER_WRITABLE;
	for (uint64_t i = 0; i < RAM_BYTES / 4096; i++)
		pt[i] = i * 4096 | PTE_USER_WRITABLE;
}

/* Set the registers for 64-bit user mode, whose code each kind of KVM runs directly on the processor. */
static int registers_set(int vcpu_fd)
{
	struct kvm_segment cs = { .limit = 0xffffffff, .selector = USER_CODE, .type = 11, .present = 1, .dpl = 3, .s = 1,
		.l = 1, .g = 1 };
	struct kvm_segment ds = { .limit = 0xffffffff, .selector = USER_DATA, .type = 3, .present = 1, .dpl = 3, .s = 1,
		.db = 1, .g = 1 };
	struct kvm_regs regs = { .rip = CODE_GPA, .rflags = FLAGS_IOPL_3 };
	struct kvm_sregs s;
	int r = kvm_ioctl(vcpu_fd, KVM_GET_SREGS, &s);

	if (r < 0)
		return r;
	s.cs = cs;
	s.ds = s.es = s.fs = s.gs = s.ss = ds;
	s.tr = (struct kvm_segment){ .limit = 0x67, .selector = 0x28, .type = 11, .present = 1 };
	s.ldt = (struct kvm_segment){ .unusable = 1 };
	s.gdt = (struct kvm_dtable){ .base = GDT_GPA, .limit = 0x37 };
	s.cr0 = 0x80000031; /* PG, NE, ET, PE */
	s.cr3 = PML4_GPA;
	s.cr4 = 0x20; /* PAE */
	s.efer = 0x500; /* LME, LMA */
	r = kvm_ioctl(vcpu_fd, KVM_SET_SREGS, &s);
	return r < 0 ? r : kvm_ioctl(vcpu_fd, KVM_SET_REGS, &regs);
}

static int answers_set(int vcpu_fd, const struct cpuid *supported)
{
	struct kvm_cpuid2 *c = kvm_cpuid_new(supported);
	int r;

	if (!c)
		return -ENOMEM;
	for (uint32_t i = 0; i < c->nent; i++)
		if (c->entries[i].function == 1) {
			c->entries[i].eax = SIGNATURE;
			c->entries[i].ecx &= ~HIDDEN_FEATURES;
		}
	r = kvm_ioctl(vcpu_fd, KVM_SET_CPUID2, c);
	free(c);
	return r;
}

static int guest_make(struct kvm_cpuid_guest *g, int sys_fd)
{
	struct kvm_userspace_memory_region slot = { .memory_size = RAM_BYTES };
	int r = kvm_ioctl(sys_fd, KVM_CREATE_VM, 0);

	if (r < 0)
		return r;
	g->vm_fd = r;
	r = kvm_ioctl(sys_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	g->ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (r < (int)sizeof(struct kvm_run) || g->ram == MAP_FAILED)
		return -ENOMEM;
	g->run_bytes = (size_t)r;
	tables_write(g->ram);
	memcpy(g->ram + CODE_GPA, code, sizeof(code));
	slot.userspace_addr = (uintptr_t)g->ram;
	r = kvm_ioctl(g->vm_fd, KVM_SET_USER_MEMORY_REGION, &slot);
	if (!r)
		r = g->vcpu_fd = kvm_ioctl(g->vm_fd, KVM_CREATE_VCPU, 0);
	if (r < 0)
		return r;
	g->run = mmap(NULL, g->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, g->vcpu_fd, 0);
	return g->run == MAP_FAILED ? -ENOMEM : 0;
}

void kvm_cpuid_guest_close(struct kvm_cpuid_guest *g)
{
	if (g->run != MAP_FAILED)
		munmap(g->run, g->run_bytes);
	if (g->vcpu_fd >= 0)
		close(g->vcpu_fd);
	if (g->vm_fd >= 0)
		close(g->vm_fd);
	if (g->ram != MAP_FAILED)
		munmap(g->ram, RAM_BYTES);
}

/* Run the guest until it writes a register to PORT. */
static int answer_read(struct kvm_cpuid_guest *g, uint32_t *ret)
{
	int r = kvm_ioctl(g->vcpu_fd, KVM_RUN, NULL);

	if (r < 0)
		return r;
	if (g->run->exit_reason != KVM_EXIT_IO || g->run->io.port != PORT || g->run->io.size != sizeof(*ret))
		return -EIO;
	memcpy(ret, (uint8_t *)g->run + g->run->io.data_offset, sizeof(*ret));
	return 0;
}

/* If KVM does not virtualise CPUID, the guest reads the processor's own signature. A kvm-pvm that traps the instruction
 * gives the guest the signature that was set, but the processor's features. */
int kvm_cpuid_guest_run(struct kvm_cpuid_guest *g, int kvm_fd, const struct cpuid *supported)
{
	uint32_t signature, features;
	int r;

	*g = (struct kvm_cpuid_guest){ .vm_fd = -1, .vcpu_fd = -1, .ram = MAP_FAILED, .run = MAP_FAILED };
	r = guest_make(g, kvm_fd);
	if (!r)
		r = answers_set(g->vcpu_fd, supported);
	if (!r)
		r = registers_set(g->vcpu_fd);
	if (!r)
		r = answer_read(g, &signature);
	if (!r)
		r = answer_read(g, &features);
	return r < 0 ? r : signature == SIGNATURE && !(features & HIDDEN_FEATURES);
}

bool kvm_host_huge_pages_safe(const char *release)
{
	unsigned major, minor;

	return sscanf(release, "%u.%u", &major, &minor) == 2 && (major > 6 || (major == 6 && minor >= 6));
}

/* ---- a host without /dev/kvm ---- */

const char *kvm_host_extension(void)
{
	unsigned a, b, c, d;

	if (__get_cpuid(1, &a, &b, &c, &d) && (c & 1u << 5))
		return "vmx";
	return __get_cpuid(0x80000001, &a, &b, &c, &d) && (c & 1u << 2) ? "svm" : NULL;
}

/* Return whether the processor has the hypervisor bit. */
static bool is_virtual_machine(void)
{
	unsigned a, b, c, d;

	return __get_cpuid(1, &a, &b, &c, &d) && (c & 1u << 31);
}

const char *kvm_host_remedy(bool confined)
{
	const char *extension = kvm_host_extension();

	if (!confined && (!access("/sys/module/kvm_intel", F_OK) || !access("/sys/module/kvm_amd", F_OK)))
		return "KVM is loaded, so only this container lacks the device; give it that (docker run --device /dev/kvm)";
	if (extension && !strcmp(extension, "vmx"))
		return "as root: modprobe kvm_intel; if that fails, switch virtualization on in the firmware";
	if (extension)
		return "as root: modprobe kvm_amd; if that fails, switch virtualization on in the firmware";
	if (is_virtual_machine())
		return "this machine is a VM without nested virtualization; switch that on at its hypervisor, or use another machine";
	return "the processor shows neither VMX nor SVM; switch virtualization on in the firmware";
}
