#include "fixture_burst.h"

#include "base/util.h"

#define LONG_BYTES (2 * MIB)

struct burst_op {
	struct run *run;
	struct block_req req;
	struct iovec iov[3];
	uint8_t *memory, *buf;
	uint64_t begin, end; /* times; end 0: in flight */
};

struct run {
	struct burst *u;
	struct burst_op *ops;
	unsigned n, in_flight;
	uint64_t tick;
};

static const uint8_t zeros[512];

/* Return the content that op gives to the sector at off; NULL: op does not touch it. */
static const uint8_t *op_content(const struct burst_op *op, uint64_t off)
{
	if (off < op->req.offset || off >= op->req.offset + op->req.len)
		return NULL;
	switch (op->req.op) {
	case BLOCK_WRITE:
		return op->buf + (off - op->req.offset);
	case BLOCK_WRITE_ZEROES:
	case BLOCK_DISCARD: /* a discard may do nothing, so it never hides the previous content */
		return zeros;
	default:
		return NULL;
	}
}

/* Return whether a change began after `end` and completed before `seen`. */
static bool hidden(const struct run *r, uint64_t off, uint64_t end, uint64_t seen)
{
	for (unsigned i = 0; i < r->n; i++) {
		const struct burst_op *d = &r->ops[i];

		if (d->req.op != BLOCK_DISCARD && op_content(d, off) && d->begin > end && d->end &&
			d->end < seen)
			return true;
	}
	return false;
}

/* Collect all contents that a read starting at `seen` may return. Returns their number, at most one
 * more than there are requests. */
static unsigned explanations(const struct run *r, uint64_t off, uint64_t seen, const uint8_t **ret)
{
	unsigned n = 0;

	if (!hidden(r, off, 0, seen))
		ret[n++] = r->u->shadow + off;
	for (unsigned i = 0; i < r->n; i++) {
		const uint8_t *c = op_content(&r->ops[i], off);

		if (c && (!r->ops[i].end || !hidden(r, off, r->ops[i].end, seen)))
			ret[n++] = c;
	}
	return n;
}

/* The host's page cache lets a read see half of a concurrent write. */
static bool torn(const uint8_t *const *why, unsigned n, const uint8_t *got)
{
	for (unsigned i = 0; i < 512; i++) {
		bool found = false;

		for (unsigned k = 0; k < n && !found; k++)
			found = why[k][i] == got[i];
		if (!found)
			return false;
	}
	return true;
}

static bool sector_may_be(const struct run *r, uint64_t off, const uint8_t *got, uint64_t seen)
{
	const uint8_t *why[BURST_OPS_MAX + 1];
	unsigned n = explanations(r, off, seen, why);

	for (unsigned i = 0; i < n; i++)
		if (!memcmp(got, why[i], 512))
			return true;
	return seen <= r->tick && torn(why, n, got);
}

/* Find another place with the same content, for the failure message. */
static void sector_trace(const struct run *r, const uint8_t *got)
{
	const struct burst *u = r->u;

	fprintf(u->log, "found %02x %02x %02x %02x ...\n", got[0], got[1], got[2], got[3]);
	for (uint64_t off = 0; off < u->bytes; off += 512) {
		if (!memcmp(got, u->shadow + off, 512))
			fprintf(u->log, "  that was at 0x%llx\n", (unsigned long long)off);
		for (unsigned i = 0; i < r->n; i++) {
			const uint8_t *c = op_content(&r->ops[i], off);

			if (c && c != zeros && !memcmp(got, c, 512))
				fprintf(u->log, "  request %u puts it at 0x%llx\n", i,
					(unsigned long long)off);
		}
	}
}

static void look(
	const struct run *r, uint64_t from, const uint8_t *got, uint64_t len, uint64_t seen)
{
	for (uint64_t i = 0; i < len; i += 512)
		if (!sector_may_be(r, from + i, got + i, seen)) {
			sector_trace(r, got + i);
			fflush(r->u->log);
			fail_msg("wrong data at 0x%llx (looked at 0x%llx + 0x%llx); the last "
				 "operations are in %s/ops",
				(unsigned long long)(from + i), (unsigned long long)from,
				(unsigned long long)len, r->u->f->dir);
		}
}

static void op_done(struct block_req *req, int res)
{
	struct burst_op *op = container_of(req, struct burst_op, req);
	struct run *r = op->run;

	if (res < 0) {
		fflush(r->u->log);
		fail_msg("op %d at 0x%llx + 0x%llx: %s; the last operations are in %s/ops", req->op,
			(unsigned long long)req->offset, (unsigned long long)req->len,
			strerror(-res), r->u->f->dir);
	}
	op->end = ++r->tick;
	r->in_flight--;
	if (req->op == BLOCK_READ) {
		look(r, req->offset, op->buf, req->len, op->begin);
		free(op->memory);
		op->memory = NULL;
	}
}

void burst_fill(struct fixture *f, uint8_t *buf, uint64_t len)
{
	uint64_t how = fixture_random(f) % 8, v = fixture_random(f) | 1;

	if (how < 2) {
		memset(buf, how ? (int)(v >> 8 & 255) : 0, len);
		return;
	}
	for (uint64_t i = 0; i + 8 <= len; i += 8) {
		v ^= v << 13;
		v ^= v >> 7;
		v ^= v << 17;
		memcpy(buf + i, &v, 8);
	}
}

static void op_range(struct burst *u, struct block_req *r, uint64_t from, uint64_t len)
{
	uint64_t how = fixture_random(u->f), c = u->cluster_bytes, most;

	most = how % 32 == 0 ? LONG_BYTES : how % 8 == 0 ? 320 * KIB : how % 2 ? 16 * KIB : 4 * c;
	r->offset = from + fixture_random(u->f) % len;
	r->len = 1 + fixture_random(u->f) % most;
	if (how / 32 % 4 == 0) { /* whole clusters */
		r->offset = ROUND_DOWN(r->offset, c);
		r->len = ROUND_UP(r->len, c);
	} else if (how / 32 % 4 == 1) { /* from the middle of a cluster to its end */
		r->len = ROUND_UP(r->offset + r->len, c) - r->offset;
	}
	r->offset = ROUND_DOWN(r->offset, u->unit);
	r->len = MIN(ROUND_UP(r->len, u->unit), u->bytes - r->offset);
}

/* Split the memory into up to three pieces, sometimes at an address that O_DIRECT refuses. */
static void op_memory(struct burst *u, struct burst_op *op)
{
	uint64_t units = op->req.len / u->unit, a, b;

	op->memory = aligned_alloc(4096, ROUND_UP(op->req.len + 64, 4096));
	op->buf = op->memory + (fixture_random(u->f) % 8 ? 0 : 20);
	a = fixture_random(u->f) % (units + 1) * u->unit;
	b = a + fixture_random(u->f) % ((op->req.len - a) / u->unit + 1) * u->unit;
	op->iov[0] = (struct iovec){op->buf, a};
	op->iov[1] = (struct iovec){op->buf + a, b - a};
	op->iov[2] = (struct iovec){op->buf + b, op->req.len - b};
	op->req.iov = op->iov;
	op->req.niov = 3;
}

static void op_start(struct run *r, uint64_t from, uint64_t len)
{
	static const enum block_op kinds[] = {BLOCK_WRITE, BLOCK_WRITE, BLOCK_WRITE, BLOCK_WRITE,
		BLOCK_WRITE, BLOCK_WRITE, BLOCK_READ, BLOCK_READ, BLOCK_READ, BLOCK_WRITE_ZEROES,
		BLOCK_WRITE_ZEROES, BLOCK_WRITE_ZEROES, BLOCK_DISCARD, BLOCK_DISCARD, BLOCK_FLUSH};
	static const char letters[] = {'r', 'w', 'f', 'd', 'z'};
	struct burst *u = r->u;
	struct burst_op *op = &r->ops[r->n];
	uint64_t flags = fixture_random(u->f);

	*op = (struct burst_op){.run = r,
		.begin = ++r->tick,
		.req = {.op = kinds[fixture_random(u->f) % ARRAY_SIZE(kinds)], .done = op_done}};
	if (op->req.op != BLOCK_FLUSH)
		op_range(u, &op->req, from, len);
	if (op->req.op == BLOCK_WRITE || op->req.op == BLOCK_READ)
		op_memory(u, op);
	if (op->req.op == BLOCK_WRITE)
		burst_fill(u->f, op->buf, op->req.len);
	if ((op->req.op == BLOCK_WRITE || op->req.op == BLOCK_WRITE_ZEROES) && !(flags % 16))
		op->req.flags |= BLOCK_REQ_FUA;
	if (op->req.op == BLOCK_WRITE_ZEROES && flags / 16 % 2)
		op->req.flags |= BLOCK_REQ_MAY_UNMAP;
	fprintf(u->log, "  %c 0x%llx + 0x%llx flags %u\n", letters[op->req.op],
		(unsigned long long)op->req.offset, (unsigned long long)op->req.len, op->req.flags);
	r->n++;
	r->in_flight++;
	block_submit(u->b, &op->req);
	assert_true(!op->end); /* done() never runs inside block_submit() */
}

/* All requests are complete: take each sector's current content as the new truth. */
static void settle(struct run *r)
{
	struct burst *u = r->u;
	uint8_t *buf = aligned_alloc(4096, ROUND_UP(u->bytes, 4096));

	assert_int_equal(fixture_rw(u->b, BLOCK_READ, 0, buf, u->bytes), 0);
	if (r->n || memcmp(buf, u->shadow, u->bytes) != 0)
		look(r, 0, buf, u->bytes, r->tick + 1);
	memcpy(u->shadow, buf, u->bytes);
	free(buf);
}

void burst_run(struct burst *u, unsigned ops, unsigned depth, uint64_t from, uint64_t len)
{
	struct run r = {.u = u, .ops = calloc(ops, sizeof(*r.ops))};

	fprintf(u->log, "burst of %u, %u at a time\n", ops, depth);
	while (r.n < ops || r.in_flight) {
		while (r.n < ops && r.in_flight < depth)
			op_start(&r, from, len);
		loop_run_once(u->f->loop, UINT64_MAX);
	}
	settle(&r);
	for (unsigned i = 0; i < ops; i++)
		free(r.ops[i].memory);
	free(r.ops);
}

void burst_verify(struct burst *u)
{
	struct run r = {.u = u};

	settle(&r);
}
