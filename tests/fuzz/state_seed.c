#include "tests/fuzz/fuzz_state.h"

#include "base/bytes.h"
#include "base/cpuid.h"
#include "base/err.h"
#include "base/util.h"
#include "snapshot/cpu_state.h"
#include "snapshot/state.h"
#include "snapshot/tree.h"
#include "snapshot/vmstate.h"

#include <stdlib.h>
#include <string.h>

#define WINDOW_BYTES 4096u
#define FRONT_BYTES (17 * WINDOW_BYTES)
#define RAM_BYTES (3 * (uint64_t)VMSTATE_BLOCK_BYTES)

static void cpu_write(struct state_writer *w, uint32_t kind)
{
	struct cpu_state c = { .kind = kind, .sockets = 1, .cores = 1, .threads = 1, .tsc_khz = 2000000, .xcr0 = 7,
		.guest = cpuid_new(3), .own = cpuid_new(1) };

	if (!c.guest || !c.own)
		abort();
	c.guest->leaf[1] = (struct cpuid_leaf){ .function = 1, .reg = { 1, 2, 3, 4 } };
	c.guest->leaf[2] = (struct cpuid_leaf){ .function = 7, .flags = CPUID_FLAG_INDEX, .reg = { 1, ~0u, 3, 4 } };
	cpu_state_put(w, &c);
	cpu_state_done(&c);
}

static void sections_write(struct state_writer *w)
{
	state_writer_init(w);
	cpu_write(w, CPU_KIND_VIRTUAL);
	cpu_write(w, CPU_KIND_PROCESSOR);
	state_section_begin(w, "vcpu", "0", 1);
	for (uint8_t i = 0; i < 40; i++)
		state_put_u64(w, i);
	state_section_end(w);
	state_section_begin(w, "virtio-blk", "vda", 3);
	state_put_u8(w, 1);
	state_put_u16(w, 2);
	state_put_u32(w, 4);
	state_put_bytes(w, "bytes", 5);
	state_section_end(w);
	state_section_begin(w, "empty", "", 0);
	state_section_end(w);
}

static size_t sections_seed(uint8_t *input)
{
	struct state_writer w;
	size_t n;

	sections_write(&w);
	n = w.len;
	memcpy(input, w.buf, n);
	state_writer_done(&w);
	return n;
}

/* Maps an offset of the address space to its place in the input. */
struct seed_store {
	struct vmstate_store store;
	uint8_t *input;
	uint64_t ram_offset;
};

static int seed_write(struct vmstate_store *s, uint64_t off, const void *buf, size_t len)
{
	struct seed_store *t = container_of(s, struct seed_store, store);
	uint64_t at[] = { 0, VMSTATE_HEADER_BYTES + VMSTATE_SECTIONS_MAX_BYTES, 16 << 20, t->ram_offset };
	unsigned i = 3;

	while (off < at[i])
		i--;
	off -= at[i];
	if (off < (i ? WINDOW_BYTES : FRONT_BYTES))
		memcpy(t->input + (i ? FRONT_BYTES + (i - 1) * (size_t)WINDOW_BYTES : 0) + off, buf,
			MIN(len, (i ? WINDOW_BYTES : FRONT_BYTES) - off));
	return 0;
}

static int seed_sync(struct vmstate_store *s)
{
	(void)s;
	return 0;
}

static size_t vmstate_seed(uint8_t *input)
{
	struct seed_store t = { .store = { .write = seed_write, .sync = seed_sync }, .input = input };
	struct vmstate_header h = { .uuid = { 1, 2, 3 }, .realtime_ns = 5 };
	struct vmstate_source src = { .definition = "{\"name\": \"web1\"}", .ram_bytes = RAM_BYTES, .ram_fd = -1 };
	uint8_t *ram = aligned_alloc(4096, RAM_BYTES);
	struct vmstate_layout layout;
	struct vmstate_result res;
	struct state_writer w;
	struct err e;
	int r;

	if (!ram)
		abort();
	memset(ram, 0, RAM_BYTES);
	memset(ram, 7, 100);
	vmstate_layout_of(RAM_BYTES, &layout);
	t.ram_offset = layout.ram_offset;
	sections_write(&w);
	src.sections = w.buf;
	src.sections_bytes = w.len;
	src.ram = ram;
	memset(input, 0, FRONT_BYTES + 3 * WINDOW_BYTES);
	r = vmstate_write(&t.store, &h, &src, NULL, &res, &e);
	state_writer_done(&w);
	free(ram);
	if (r < 0)
		abort();
	return FRONT_BYTES + 3 * WINDOW_BYTES;
}

static size_t tree_seed(uint8_t *input)
{
	for (unsigned i = 0; i < 5; i++) {
		struct tree_data d = { .parent = i, .serial = i + 1, .state = (uint8_t)(i % 3) };
		struct block_snapshot_info info = { 0 };
		uint8_t *p = input + i * STATE_TREE_ENTRY_BYTES;

		strcpy(d.tags, i ? "auto,daily" : "");
		strcpy(d.description, "before the upgrade");
		if (i > 2) {
			d.set.mark = (uint8_t)(i - 2);
			d.set.disks = 2;
			memset(d.set.id, (int)i, sizeof(d.set.id));
		}
		tree_encode(&d, &info);
		memset(p, 0, STATE_TREE_ENTRY_BYTES);
		store_le16(p, (uint16_t)info.extra_bytes);
		p[2] = (uint8_t)i;
		memcpy(p + 3, info.extra, info.extra_bytes);
	}
	return 5 * (size_t)STATE_TREE_ENTRY_BYTES;
}

/* Each kind exists twice: with its stored checksums and with recomputed ones. */
size_t state_seeds(void)
{
	return 2 * STATE_KINDS;
}

size_t state_seed(size_t i, uint8_t *input)
{
	static size_t (*const make[])(uint8_t *) = { sections_seed, vmstate_seed, tree_seed };

	input[0] = (uint8_t)(i % STATE_KINDS) | (i >= STATE_KINDS ? STATE_WHOLE : 0);
	return 1 + make[i % STATE_KINDS](input + 1);
}
