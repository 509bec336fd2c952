/* CPUID of the guest: the leaves of the guest's processor (guest_cpu.h) or, by default, those that KVM supports on
 * this host, with the VM's topology (Intel SDM vol. 2A, CPUID; AMD APM vol. 3, appendix E). */
#include "base/cpuid.h"
#include "base/err.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/vcpu.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>

#define LEAF1_ECX_HYPERVISOR (1u << 31)
#define LEAF1_ECX_TSC_DEADLINE (1u << 24)
#define LEAF1_EDX_HTT (1u << 28)
#define LEVEL_SMT 1u
#define LEVEL_CORE 2u

static unsigned bits_for(unsigned n)
{
	unsigned b = 0;

	while ((1u << b) < n)
		b++;
	return b;
}

/* Fill leaf 0xB or 0x1F: sub-leaf 0 describes the threads of a core, sub-leaf 1 the cores of a
 * package. APIC ids are dense here, so the shifts are only exact when the counts are powers of two.
 * Other counts would need gaps between packages' APIC ids, which neither MADT nor INIT-SIPI here
 * provide. */
static void topology_level(struct kvm_cpuid_entry2 *c, const struct vcpus_config *t, unsigned apic_id)
{
	unsigned smt_bits = bits_for(t->threads), pkg_bits = bits_for(t->threads * t->cores);

	c->edx = apic_id;
	switch (c->index) {
	case 0:
		c->eax = smt_bits;
		c->ebx = t->threads;
		c->ecx = LEVEL_SMT << 8 | 0;
		break;
	case 1:
		c->eax = pkg_bits;
		c->ebx = t->threads * t->cores;
		c->ecx = LEVEL_CORE << 8 | 1;
		break;
	default:
		c->eax = c->ebx = 0;
		c->ecx = c->index;
	}
}

static void entry_adjust(struct kvm_cpuid_entry2 *c, const struct vcpus_config *t, unsigned apic_id)
{
	unsigned per_package = t->threads * t->cores;

	switch (c->function) {
	case 1:
		c->ebx = (c->ebx & 0xffff) | apic_id << 24 | (per_package & 0xff) << 16;
		c->ecx |= LEAF1_ECX_HYPERVISOR | LEAF1_ECX_TSC_DEADLINE;
		c->edx = per_package > 1 ? c->edx | LEAF1_EDX_HTT : c->edx & ~LEAF1_EDX_HTT;
		break;
	case 4:
		/* Caches of level 3 and above are shared by the package, the others by a core. */
		if (c->eax & 0x1f) {
			unsigned sharing = (c->eax >> 5 & 7) >= 3 ? per_package : t->threads;

			c->eax = (c->eax & 0x3fff) | (sharing - 1) << 14 | (t->cores - 1) << 26;
		}
		break;
	case 0x8000001d: /* as leaf 4, without the number of cores */
		if (c->eax & 0x1f)
			c->eax = (c->eax & 0x3fff) | ((c->eax >> 5 & 7) >= 3 ? per_package - 1 : t->threads - 1) << 14;
		break;
	case 0xb:
	case 0x1f:
		topology_level(c, t, apic_id);
		break;
	case 0x80000008:
		c->ecx = (c->ecx & ~0xf0ffu) | (per_package - 1) | bits_for(per_package) << 12;
		break;
	case 0x8000001e:
		c->eax = apic_id;
		c->ebx = apic_id / t->threads | (t->threads - 1) << 8;
		c->ecx = 0;
		break;
	}
}

/* Make the leaves that a vCPU gets. Returns NULL without memory. */
static struct kvm_cpuid2 *leaves_make(const struct cpuid *from, const struct vcpus_config *t, unsigned apic_id)
{
	struct kvm_cpuid2 *c = kvm_cpuid_new(from);

	for (unsigned i = 0; c && i < c->nent; i++)
		entry_adjust(&c->entries[i], t, apic_id);
	return c;
}

static bool leaves_have(const struct kvm_cpuid2 *c, const struct kvm_cpuid_entry2 *e)
{
	for (unsigned i = 0; i < c->nent; i++)
		if (!memcmp(&c->entries[i], e, sizeof(*e)))
			return true;
	return false;
}

bool vcpu_cpuid_is_same(const struct vcpus_config *t, const struct cpuid *a, const struct cpuid *b)
{
	struct kvm_cpuid2 *x, *y;
	bool same;

	if (cpuid_equal(a, b))
		return true;
	x = leaves_make(a, t, 0);
	y = leaves_make(b, t, 0);
	same = x && y && x->nent == y->nent;
	for (unsigned i = 0; same && i < x->nent; i++)
		same = leaves_have(y, &x->entries[i]);
	free(x);
	free(y);
	return same;
}

int vcpu_cpuid_set(struct vcpu *v, struct err *e)
{
	const struct vcpus_config *t = &v->set->cfg;
	struct kvm_cpuid2 *c = leaves_make(t->kvm->guest ? t->kvm->guest : t->kvm->supported, t, v->index);
	int r;

	if (!c)
		return err_set_errno(e, -ENOMEM, "CPUID");
	r = kvm_ioctl(v->fd, KVM_SET_CPUID2, c);
	free(c);
	return r < 0 ? err_set(e, r, ERR_HOST, "KVM_SET_CPUID2: %s", strerror(-r)) : 0;
}
