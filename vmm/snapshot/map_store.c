#include "vmm/snapshot/map_store.h"
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"
#include "vmm/machine/disk_call.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int map_read(struct vmstate_store *s, uint64_t off, void *buf, size_t len)
{
	struct map_store *m = container_of(s, struct map_store, store);
	uint8_t *p = buf;
	int r = 0;

	while (len && !r) {
		uint64_t cluster = off / m->map.cluster_bytes, in = off % m->map.cluster_bytes, host, n;

		if (cluster >= m->map.n)
			return -EIO;
		host = block_vmstate_map_host(&m->map, cluster, &n);
		n = MIN(n * m->map.cluster_bytes - in, len);
		if (host)
			r = pread_full(m->map.fd, p, n, (off_t)(host + in));
		else
			memset(p, 0, n);
		p += n;
		off += n;
		len -= n;
	}
	return r;
}

static int map_refuse_write(struct vmstate_store *s, uint64_t off, const void *buf, size_t len)
{
	(void)s;
	(void)off;
	(void)buf;
	(void)len;
	return -EROFS;
}

static int map_sync(struct vmstate_store *s)
{
	(void)s;
	return 0;
}

int map_store_new(struct machine_disk *d, const char *id, struct map_store **ret, struct err *e)
{
	struct block_vmstate_map map = { 0 };
	struct map_store *m;
	size_t bytes;
	int r = disk_vmstate_map(d, id, &map, e);

	if (r < 0)
		return r;
	bytes = map.nextents * sizeof(m->extents[0]);
	m = malloc(sizeof(*m) + bytes);
	if (!m) {
		free(map.extents);
		return err_set_errno(e, -ENOMEM, "snapshot");
	}
	m->store = (struct vmstate_store){ .read = map_read, .write = map_refuse_write, .sync = map_sync };
	m->map = map;
	m->map.extents = m->extents;
	if (bytes)
		memcpy(m->extents, map.extents, bytes);
	free(map.extents);
	*ret = m;
	return 0;
}
