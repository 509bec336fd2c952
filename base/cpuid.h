/* cpuid: CPUID leaves, the bits in them that are features of a processor, and the names of these
 * bits (Intel SDM vol. 2A, CPUID; AMD APM vol. 3, appendix E). Names are mostly those of Linux's /proc/cpuinfo; an
 * exception is sse3, which Linux calls pni. Any thread. */
#ifndef CAIRN_BASE_CPUID_H
#define CAIRN_BASE_CPUID_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CPUID_LEAVES_MAX 256u
#define CPUID_NAME_BYTES 48u
#define CPUID_FLAG_INDEX 1u /* KVM_CPUID_FLAG_SIGNIFCANT_INDEX: the leaf has sub-leaves */

enum cpuid_reg { CPUID_EAX, CPUID_EBX, CPUID_ECX, CPUID_EDX };

struct cpuid_leaf {
	uint32_t function, index, flags;
	uint32_t reg[4]; /* indexed by enum cpuid_reg */
};

struct cpuid {
	uint32_t n;
	struct cpuid_leaf leaf[];
};

/* Allocate n leaves, all zero. The caller frees them with free(). NULL: out of memory. */
struct cpuid *cpuid_new(uint32_t n);
/* The place of a feature's bit. */
struct cpuid_feature {
	uint32_t function, index;
	enum cpuid_reg reg;
	unsigned bit;
};

/* Find a feature that a definition can add or remove. "-", "_" and "." are the same, and case does not matter.
 * name: of length len; a name of /proc/cpuinfo, or libvirt's, except that "stibp" is AMD's bit.
 * Returns false if no feature has the name. */
bool cpuid_find_feature(const char *name, size_t len, struct cpuid_feature *ret);
/* Write Cairn's name of a feature that cpuid_find_feature() found. Returns ret. */
const char *cpuid_feature_name(const struct cpuid_feature *f, char ret[CPUID_NAME_BYTES]);
/* Return libvirt's name of a feature; NULL if it is the same. */
const char *cpuid_libvirt_name(const char *name, size_t len);
/* Clear all features in c that `keep` lacks, except KVM's own features, the list of XSAVE states, and bits that
 * cpuid_list_more() does not count. */
void cpuid_keep_features(struct cpuid *c, const struct cpuid *keep);

/* Return a copy that the caller frees; NULL: out of memory. */
struct cpuid *cpuid_copy(const struct cpuid *c);
/* Return the leaf, or NULL. index is ignored for a leaf without sub-leaves. */
const struct cpuid_leaf *cpuid_find(const struct cpuid *c, uint32_t function, uint32_t index);
bool cpuid_equal(const struct cpuid *a, const struct cpuid *b);

/* Clear the APIC id and other fields that differ between a host's processors, so that a leaf is equal on whichever of
 * them it was read. */
void cpuid_leaf_strip_id(struct cpuid_leaf *l);

/* Read the leaves of the calling processor that hold features. Each leaf takes some 3 us on a host
 * that is a virtual machine itself. Returns leaves that the caller frees; NULL: out of memory. */
struct cpuid *cpuid_read_processor(void);
/* Return XCR0 of the calling processor: the register state that XSAVE handles; 0 without XSAVE. */
uint64_t cpuid_read_xcr0(void);

/* List what `has` offers and `lacks` does not, as in "avx2, sha_ni, CPUID 7.0 EBX bit 31". The list has features,
 * another processor vendor, and states that both have with different XSAVE layouts. These bits do not count: OSXSAVE
 * and OSPKE, which a guest switches itself; HTT, which depends on the topology; the TSC deadline timer and the
 * hypervisor bit, which each guest has.
 * lacks: NULL: list all features of `has`.
 * text: may be NULL with size 0; a longer list ends with ", and 12 more".
 * Returns the number of differences. */
unsigned cpuid_list_more(const struct cpuid *has, const struct cpuid *lacks, char *text, size_t size);

/* Like cpuid_list_more(), but compare only feature bits. */
unsigned cpuid_list_features(const struct cpuid *has, const struct cpuid *lacks, char *text, size_t size);

#endif
