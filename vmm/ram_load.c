#include "vmm/ram_load.h"
#include "base/err.h"
#include "snapshot/pager.h"
#include "vmm/machine.h"

#include <stdlib.h>

/* On the pager's thread: no vCPU may use what it is given instead of the block. */
static void pager_failed(void *opaque, const struct err *e)
{
	struct machine *m = opaque;

	vcpus_poison(&m->vcpus);
	m->listener.fault(m->listener.opaque, 0, VM_REASON_IO_ERROR, e->msg);
}

static int load_lazily(struct machine *m, struct vmstate_store *s, const struct vmstate_header *h,
	uint32_t *crcs, struct err *e)
{
	struct pager_config c = { .store = s, .header = *h, .crcs = crcs, .ram = m->mem.host,
		.failed = pager_failed, .opaque = m };
	int r = pager_new(&c, &m->uffd, &m->pager, e);

	if (r < 0) {
		free(crcs);
		return r;
	}
	return pager_start(m->pager, e);
}

static int load_all(struct machine *m, struct vmstate_store *s, const struct vmstate_header *h,
	uint32_t *crcs, struct err *e)
{
	int r = 0;

	for (uint64_t b = 0; b < h->layout.blocks && !r; b++)
		if (!vmstate_block_is_zero(&h->layout, crcs, b))
			r = vmstate_read_block(s, h, crcs, b, m->mem.host + b * VMSTATE_BLOCK_BYTES, e);
	free(crcs);
	return r;
}

int ram_load(struct machine *m, struct vmstate_store *s, const struct vmstate_header *h,
	uint32_t *crcs, bool eager, struct err *e)
{
	if (m->uffd.fd < 0 || eager)
		return load_all(m, s, h, crcs, e);
	return load_lazily(m, s, h, crcs, e);
}
