/* Part of a cairn-vm that believes to be on a host whose KVM supports every feature of a processor. FAKE_CPUID_VENDOR:
 * the vendor, the 12 characters of CPUID leaf 0. KVM gives a guest whatever leaves it is told to, so the guest sees the
 * processor; it must not use features that the real host lacks. */
#include "base/cpuid.h"
#include "base/util.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ALL 0xffffffffu

int __real_kvm_cpuid_read(int kvm_fd, struct cpuid **ret);
int __wrap_kvm_cpuid_read(int kvm_fd, struct cpuid **ret);

static void leaf_fake(struct cpuid_leaf *l, const char *vendor)
{
	switch (l->function) {
	case 0x80000000:
		l->reg[CPUID_EAX] = MAX(l->reg[CPUID_EAX], 0x80000021u);
		/* fall through */
	case 0:
		memcpy(&l->reg[CPUID_EBX], vendor, 4);
		memcpy(&l->reg[CPUID_EDX], vendor + 4, 4);
		memcpy(&l->reg[CPUID_ECX], vendor + 8, 4);
		break;
	case 1:
	case 0x80000001:
		l->reg[CPUID_ECX] = l->reg[CPUID_EDX] = ALL;
		break;
	case 7:
		/* EAX of sub-leaf 0 is the number of the last one. */
		l->reg[CPUID_EAX] = l->index ? ALL : MAX(l->reg[CPUID_EAX], 1u);
		l->reg[CPUID_EBX] = l->reg[CPUID_ECX] = l->reg[CPUID_EDX] = ALL;
		break;
	case 0xd:
		if (l->index == 1)
			l->reg[CPUID_EAX] = ALL;
		break;
	case 0x80000008:
		l->reg[CPUID_EBX] = ALL;
		break;
	case 0x80000021:
		l->reg[CPUID_EAX] = ALL;
		break;
	default:
		break;
	}
}

/* Add a leaf that an older kernel's KVM does not report. */
static int leaf_add(struct cpuid **c, uint32_t function, uint32_t index, uint32_t flags)
{
	struct cpuid *more;

	if (cpuid_find(*c, function, index))
		return 0;
	more = cpuid_new((*c)->n + 1);
	if (!more)
		return -ENOMEM;
	memcpy(more->leaf, (*c)->leaf, (*c)->n * sizeof((*c)->leaf[0]));
	more->leaf[(*c)->n] = (struct cpuid_leaf){ .function = function, .index = index, .flags = flags };
	free(*c);
	*c = more;
	return 0;
}

int __wrap_kvm_cpuid_read(int kvm_fd, struct cpuid **ret)
{
	const char *vendor = getenv("FAKE_CPUID_VENDOR");
	int r = __real_kvm_cpuid_read(kvm_fd, ret);

	if (!r)
		r = leaf_add(ret, 7, 1, CPUID_FLAG_INDEX);
	if (!r)
		r = leaf_add(ret, 0x80000021, 0, 0);
	for (uint32_t i = 0; !r && i < (*ret)->n; i++)
		leaf_fake(&(*ret)->leaf[i], vendor);
	return r;
}
