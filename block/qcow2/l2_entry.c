/* Checks the entries of L2 tables. */
#include "base/util.h"
#include "block/qcow2/impl.h"

#include <errno.h>

int l2_check(const struct qcow2 *q, struct l2_entry v)
{
	uint64_t host = v.e & QCOW2_OFFSET_MASK, off, len;
	uint64_t allocated = v.bitmap & 0xffffffff, zero = v.bitmap >> 32;

	if (v.e & QCOW2_COMPRESSED) {
		l2_compressed(q, v.e, &off, &len);
		return q->external || (v.e & QCOW2_COPIED) || v.bitmap || !range_inside(off, len, QCOW2_OFFSET_END)
			       ? -EIO : 0;
	}
	if ((v.e & QCOW2_L2_RESERVED) || (host & (q->cluster_bytes - 1)))
		return -EIO;
	if ((v.e & QCOW2_ZERO) && (q->ext || q->h.version < 3))
		return -EIO;
	if ((allocated & zero) || (allocated && !l2_has_host(q, v)))
		return -EIO;
	return 0;
}

int l2_check_at(const struct qcow2 *q, struct l2_entry v, uint64_t off)
{
	int r = l2_check(q, v);

	if (!r && q->external && l2_has_host(q, v) &&
		(v.e & QCOW2_OFFSET_MASK) != ROUND_DOWN(off, (uint64_t)q->cluster_bytes))
		r = -EIO;
	return r;
}

void l2_compressed(const struct qcow2 *q, uint64_t e, uint64_t *ret_off, uint64_t *ret_len)
{
	uint32_t x = 62 - (q->cluster_bits - 8);
	uint64_t sectors = (e & ~(QCOW2_COPIED | QCOW2_COMPRESSED)) >> x;

	*ret_off = e & ((1ULL << x) - 1);
	*ret_len = (sectors + 1) * 512 - (*ret_off & 511);
}
