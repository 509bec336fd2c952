/* XSAVE and XRSTOR of the assist (Intel SDM vol. 1, chapter 13), and the page walk for their operand (vol. 3, chapter
 * 4). */
#include "base/bytes.h"
#include "devices/dev_host.h"
#include "vmm/kvm/assist.h"

#include <cpuid.h>
#include <errno.h>
#include <linux/kvm.h>

#define LEAF_XSTATE 0xd
#define X87 1u
#define SSE 2u
#define AVX 4u
#define MXCSR_AT 24u
#define MXCSR_BYTES 4u
#define MXCSR_AND_MASK_BYTES 8u
#define REGISTERS_X87_AT 32u
#define REGISTERS_X87_BYTES 128u
#define XMM_AT 160u
#define XMM_BYTES 256u
#define BV_AT 512u
#define XCOMP_BV_AT 520u
#define HEADER_RESERVED_BYTES 16u /* from XCOMP_BV on */
#define HEADER_END 576u
#define FCW_INIT 0x37f

#define PAGE_PRESENT 1u
#define PAGE_WRITE 2u
#define PAGE_ACCESSED 0x20u
#define PAGE_DIRTY 0x40u
#define PAGE_LARGE 0x80u
#define PAGE_ADDRESS 0xffffffffff000ULL
#define CR0_WP (1ULL << 16)
#define CR0_PG (1ULL << 31)
#define CR4_LA57 (1ULL << 12)

void assist_xlayout_read(struct assist_xlayout *l)
{
	unsigned parts, ebx, ecx, edx;

	memset(l, 0, sizeof(*l));
	if (__get_cpuid_max(0, NULL) < LEAF_XSTATE)
		return;
	/* Each CPUID takes 20 us where this host is a VM itself, so ask about the components that there are. */
	__cpuid_count(LEAF_XSTATE, 0, parts, ebx, ecx, edx);
	for (unsigned i = 2; i < ASSIST_XPARTS; i++)
		if (parts >> i & 1)
			__cpuid_count(LEAF_XSTATE, i, l->part[i].bytes, l->part[i].at, ecx, edx);
}

size_t assist_xbytes(const struct assist_xlayout *l, uint64_t rfbm)
{
	size_t end = HEADER_END;

	for (unsigned i = 2; i < ASSIST_XPARTS; i++)
		if (rfbm >> i & 1 && l->part[i].at + l->part[i].bytes > end)
			end = l->part[i].at + l->part[i].bytes;
	return end;
}

static void part_copy(uint8_t *to, const uint8_t *from, size_t at, size_t bytes)
{
	if (from)
		memcpy(to + at, from + at, bytes);
	else
		memset(to + at, 0, bytes);
}

/* Copy the bytes before the header, but not MXCSR. x87, sse: NULL: the state after a reset. */
static void legacy_copy(uint8_t *to, const uint8_t *x87, const uint8_t *sse, uint64_t rfbm)
{
	if (rfbm & X87) {
		part_copy(to, x87, 0, MXCSR_AT);
		part_copy(to, x87, REGISTERS_X87_AT, REGISTERS_X87_BYTES);
		if (!x87)
			store_le16(to, FCW_INIT);
	}
	if (rfbm & SSE)
		part_copy(to, sse, XMM_AT, XMM_BYTES);
}

void assist_xsave(const struct assist_xlayout *l, const uint8_t *state, uint8_t *area, uint64_t rfbm)
{
	uint64_t had = load_le64(area + BV_AT);

	legacy_copy(area, state, state, rfbm);
	if (rfbm & (SSE | AVX))
		part_copy(area, state, MXCSR_AT, MXCSR_AND_MASK_BYTES);
	for (unsigned i = 2; i < ASSIST_XPARTS; i++)
		if (rfbm >> i & 1)
			part_copy(area, state, l->part[i].at, l->part[i].bytes);
	store_le64(area + BV_AT, (had & ~rfbm) | (load_le64(state + BV_AT) & rfbm));
}

int assist_xrstor(const struct assist_xlayout *l, uint8_t *state, const uint8_t *area, uint64_t rfbm, uint64_t xcr0)
{
	uint64_t bv = load_le64(area + BV_AT), had = load_le64(state + BV_AT);

	if (bv & ~xcr0 || !bytes_are_zero(area + XCOMP_BV_AT, HEADER_RESERVED_BYTES))
		return -EINVAL;
	legacy_copy(state, bv & X87 ? area : NULL, bv & SSE ? area : NULL, rfbm);
	if (rfbm & (SSE | AVX))
		part_copy(state, area, MXCSR_AT, MXCSR_BYTES);
	for (unsigned i = 2; i < ASSIST_XPARTS; i++)
		if (rfbm >> i & 1)
			part_copy(state, bv >> i & 1 ? area : NULL, l->part[i].at, l->part[i].bytes);
	/* KVM takes MXCSR only with one of these two parts. */
	store_le64(state + BV_AT, (had & ~rfbm) | (bv & rfbm) | X87 | SSE);
	return 0;
}

/* ---- page walk ---- */

/* Set bits of an entry whose value was e. Returns false if another vCPU has changed the entry: it may be no longer
 * present, and then its bits belong to the guest's kernel. */
static bool entry_mark(struct dev_host *h, uint64_t gpa, uint8_t *entry, uint64_t e, uint64_t bits)
{
	if ((e & bits) == bits)
		return true;
	if (!__atomic_compare_exchange_n((uint64_t *)entry, &e, e | bits, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
		return false;
	if (h->ops->ram_dirty)
		h->ops->ram_dirty(h, gpa, sizeof(bits));
	return true;
}

static bool is_canonical(uint64_t linear)
{
	return linear + (1ULL << 47) < 1ULL << 48;
}

int assist_walk(struct dev_host *h, const struct kvm_sregs *s, uint64_t linear, bool write, uint64_t *ret_gpa)
{
	uint64_t table = s->cr3 & PAGE_ADDRESS;

	if (!(s->cr0 & CR0_PG) || s->cr4 & CR4_LA57)
		return -ENOTSUP;
	if (!is_canonical(linear))
		return ASSIST_NOT_CANONICAL;
	for (int level = 3; level >= 0;) {
		unsigned shift = 12 + 9 * (unsigned)level;
		uint64_t at = table + (linear >> shift & 511) * sizeof(uint64_t), inside = (1ULL << shift) - 1;
		uint8_t *entry = dev_ram(h, at, sizeof(uint64_t));
		uint64_t e = entry ? __atomic_load_n((uint64_t *)entry, __ATOMIC_RELAXED) : 0;
		bool last = !level || (level < 3 && e & PAGE_LARGE);

		if (!(e & PAGE_PRESENT))
			return write ? PAGE_WRITE : 0;
		if (write && s->cr0 & CR0_WP && !(e & PAGE_WRITE))
			return PAGE_PRESENT | PAGE_WRITE;
		if (!entry_mark(h, at, entry, e, PAGE_ACCESSED | (last && write ? PAGE_DIRTY : 0)))
			continue;
		if (last) {
			*ret_gpa = (e & PAGE_ADDRESS & ~inside) | (linear & inside);
			return ASSIST_WALKED;
		}
		table = e & PAGE_ADDRESS;
		level--;
	}
	return -ENOTSUP;
}
