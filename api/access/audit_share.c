#include "api/access/audit_share.h"
#include "base/clock.h"

#define REFILL_BYTE_NS (3600 * CLOCK_NS_PER_S / AUDIT_SHARE_REFILL)

static void share_refill(struct audit_share *s, uint64_t now_ns)
{
	uint64_t bytes = (now_ns - s->refilled_ns) / REFILL_BYTE_NS;

	if (bytes >= s->spent_bytes) {
		s->spent_bytes = 0;
		s->refilled_ns = now_ns;
	} else {
		s->spent_bytes -= bytes;
		s->refilled_ns += bytes * REFILL_BYTE_NS;
	}
}

struct audit_share *audit_share_of(struct audit_share *shares, int64_t uid, bool denied, uint64_t now_ns)
{
	struct audit_share *shared = &shares[AUDIT_SHARES - 1], *unused = NULL;

	for (struct audit_share *s = shares; s <= shared; s++)
		share_refill(s, now_ns);
	for (struct audit_share *s = shares; s < shared && uid >= 0; s++) {
		bool used = s->spent_bytes || s->left_out;

		if (used && s->uid == uid)
			return s;
		if (!used && !unused)
			unused = s;
	}
	if (!unused || denied)
		return shared;
	unused->uid = uid;
	return unused;
}

bool audit_share_take(struct audit_share *s, size_t bytes)
{
	if (s->spent_bytes + bytes > AUDIT_SHARE_BYTES)
		return false;
	s->spent_bytes += bytes;
	return true;
}
