/* Where a VM state lies in the image's file, in stretches. */
#include "block/block_snapshot.h"
#include "block/block_impl.h"

#include <errno.h>
#include <stdlib.h>

/* Does what comes at cluster go on where the last stretch ends? */
static bool extent_continues(const struct block_vmstate_map *m, uint64_t cluster, uint64_t host)
{
	const struct block_vmstate_extent *last;

	if (!m->nextents)
		return false;
	last = &m->extents[m->nextents - 1];
	return last->host ? host == last->host + (cluster - last->cluster) * m->cluster_bytes : !host;
}

int block_vmstate_map_add(struct block_vmstate_map *m, uint64_t cluster, uint64_t host)
{
	struct block_vmstate_extent *x = m->extents;

	if (extent_continues(m, cluster, host))
		return 0;
	if (!(m->nextents & (m->nextents - 1))) { /* all powers of two are full */
		x = reallocarray(x, m->nextents ? 2 * m->nextents : 1, sizeof(*x));
		if (!x)
			return -ENOMEM;
		m->extents = x;
	}
	x[m->nextents++] = (struct block_vmstate_extent){ .cluster = cluster, .host = host };
	return 0;
}

uint64_t block_vmstate_map_host(const struct block_vmstate_map *m, uint64_t cluster, uint64_t *ret_n)
{
	const struct block_vmstate_extent *x = m->extents;
	size_t low = 0, high = m->nextents; /* the one that is looked for is in [low, high) */

	while (high - low > 1) {
		size_t mid = low + (high - low) / 2;

		if (x[mid].cluster <= cluster)
			low = mid;
		else
			high = mid;
	}
	*ret_n = (low + 1 < m->nextents ? x[low + 1].cluster : m->n) - cluster;
	return x[low].host ? x[low].host + (cluster - x[low].cluster) * m->cluster_bytes : 0;
}
