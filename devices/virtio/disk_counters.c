#include "devices/virtio/disk_counters.h"
#include "devices/virtio/virtio_blk.h"

void disk_counters_add(struct disk_counters *c, enum block_op op, uint64_t bytes, uint64_t ns)
{
	size_t reqs = op == BLOCK_READ ? DISK_RD_REQS : op == BLOCK_FLUSH ? DISK_FL_REQS : DISK_WR_REQS;
	size_t times = op == BLOCK_READ ? DISK_RD_NS : op == BLOCK_FLUSH ? DISK_FL_NS : DISK_WR_NS;
	size_t latency = op == BLOCK_READ ? DISK_RD_LATENCY : op == BLOCK_FLUSH ? DISK_FL_LATENCY : DISK_WR_LATENCY;

	figure_add(c->n, c->shown, reqs, 1);
	figure_add(c->n, c->shown, times, ns);
	if (op != BLOCK_FLUSH)
		figure_add(c->n, c->shown, op == BLOCK_READ ? DISK_RD_BYTES : DISK_WR_BYTES, bytes);
	figure_latency(c->n, c->shown, latency, ns);
}

void disk_counters_show(struct disk_counters *c, _Atomic uint64_t *shown)
{
	c->shown = shown;
	figures_show(c->n, shown, DISK_FIGURES);
}

void disk_counters_get(const struct disk_counters *c, struct virtio_blk_stats *ret)
{
	ret->rd_reqs = figure_get(c->n, DISK_RD_REQS);
	ret->rd_bytes = figure_get(c->n, DISK_RD_BYTES);
	ret->rd_ns = figure_get(c->n, DISK_RD_NS);
	ret->wr_reqs = figure_get(c->n, DISK_WR_REQS);
	ret->wr_bytes = figure_get(c->n, DISK_WR_BYTES);
	ret->wr_ns = figure_get(c->n, DISK_WR_NS);
	ret->fl_reqs = figure_get(c->n, DISK_FL_REQS);
	ret->fl_ns = figure_get(c->n, DISK_FL_NS);
	ret->errors = figure_get(c->n, DISK_ERRORS);
	ret->failed = atomic_load(&c->failed);
}

void disk_counters_carry(struct disk_counters *c, const struct virtio_blk_stats *before)
{
	const uint64_t from[] = { [DISK_RD_REQS] = before->rd_reqs, [DISK_RD_BYTES] = before->rd_bytes, [DISK_RD_NS] = before->rd_ns,
		[DISK_WR_REQS] = before->wr_reqs, [DISK_WR_BYTES] = before->wr_bytes, [DISK_WR_NS] = before->wr_ns,
		[DISK_FL_REQS] = before->fl_reqs, [DISK_FL_NS] = before->fl_ns, [DISK_ERRORS] = before->errors };

	for (size_t i = 0; i < sizeof(from) / sizeof(from[0]); i++)
		figure_add(c->n, c->shown, i, from[i]);
}
