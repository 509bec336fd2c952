/* legacy: the filter tables of iptables-legacy, which nftables does not show, and their verdict on forwarded packets.
 * The kernel sends no notice when such a table changes. Threading: any. */
#ifndef CAIRN_TOOLS_NET_LEGACY_H
#define CAIRN_TOOLS_NET_LEGACY_H

#include <stdbool.h>
#include <stddef.h>

struct legacy_table {
	void *owned;		      /* holds entries; NULL allowed */
	const unsigned char *entries; /* as the kernel prints them: struct ipt_entry or ip6t_entry, aligned as these */
	size_t bytes;
	size_t forward, policy; /* offsets of the first entry of the chain FORWARD, and of its policy */
	bool ipv6;
};

/* Return whether the calling network namespace has a filter table, in which packets of guests may be dropped. */
bool legacy_table_exists(bool ipv6);
/* Read the table, which must exist: asking for another one would create it.
 * ret: the caller frees it with legacy_table_done(). Returns 0; -EPERM without CAP_NET_RAW; -errno. */
int legacy_table_read(bool ipv6, struct legacy_table *ret);
void legacy_table_done(struct legacy_table *t);
/* Whether the chain FORWARD drops packets from one link to another. Rules with conditions other than links are skipped,
 * as if they did not apply.
 * answers: of packets that belong to a connection from the other side; a rule that accepts such connections counts.
 * Returns false for a malformed table. */
bool legacy_table_drops(const struct legacy_table *t, const char *in, const char *out, bool answers);

#endif
