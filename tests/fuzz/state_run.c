#include "tests/fuzz/fuzz_state.h"

#include "base/bytes.h"
#include "base/cpuid.h"
#include "base/crc32c.h"
#include "base/err.h"
#include "base/util.h"
#include "snapshot/cpu_state.h"
#include "snapshot/state.h"
#include "snapshot/tree.h"
#include "snapshot/vmstate.h"

#include <stdlib.h>
#include <string.h>

/* Limit of RAM; larger checksum tables cover no more code. */
#define RAM_LOOKED_AT (64ULL << 20)
#define DEFINITION_AT (VMSTATE_HEADER_BYTES + VMSTATE_SECTIONS_MAX_BYTES)
#define WINDOW_BYTES 4096u
#define FRONT_BYTES (17 * WINDOW_BYTES)

static void must(bool ok)
{
	if (!ok)
		abort();
}

/* ---- sections ---- */

static void sections_make_whole(uint8_t *buf, size_t len)
{
	size_t pos = 0;

	while (len - pos >= 20) {
		uint8_t *p = buf + pos;
		size_t name = load_le16(p + 6), instance = load_le16(p + 8), content = load_le32(p + 12);
		size_t bytes = name + instance + content;

		if (bytes > len - pos - 20)
			return;
		store_le32(p + 16, crc32c(crc32c(0, p, 16), p + 20, bytes));
		pos += ROUND_UP(20 + bytes, 8);
		if (pos > len)
			return;
	}
}

/* Read values of the types that the content's own bytes choose. */
static void content_read(struct state_reader *r)
{
	uint8_t some[64];

	for (unsigned i = 0; i < 4096 && !r->failed && r->pos < r->len; i++) {
		uint8_t how = state_u8(r);

		if (how % 8 == 0)
			(void)state_u16(r);
		else if (how % 8 == 1)
			(void)state_u32(r);
		else if (how % 8 == 2)
			(void)state_u64(r);
		else if (how % 8 == 3)
			state_bytes(r, some, how % sizeof(some));
		must(r->pos <= r->len);
	}
	(void)state_reader_complete(r);
}

/* Read a section "cpu", and compare its processor with this one and with itself. */
static void cpu_run(struct state_reader r)
{
	static struct cpuid *here; /* kept, because each leaf is an exit on a host that is a virtual machine */
	char text[100];
	struct cpu_state c;
	struct err e;

	if (!here)
		here = cpuid_read_processor();
	must(here);
	if (cpu_state_take(&r, &c, &e) == 0) {
		must(c.guest->n <= CPUID_LEAVES_MAX && (!c.own || c.own->n <= CPUID_LEAVES_MAX));
		must(cpuid_list_more(c.guest, c.guest, text, sizeof(text)) == 0 && !text[0]);
		(void)cpuid_list_more(c.guest, here, text, sizeof(text));
		must(strlen(text) < sizeof(text));
		(void)cpuid_list_more(here, c.guest, NULL, 0);
	}
	cpu_state_done(&c);
}

static unsigned sections_run(const uint8_t *buf, size_t len)
{
	struct state_section s;
	size_t pos = 0, before = 0;
	unsigned n = 0;
	struct err e;

	while (state_section_next(buf, len, &pos, &s, &e) == 1) {
		must(pos > before && pos <= len);
		must(strnlen(s.name, sizeof(s.name)) <= STATE_NAME_MAX);
		must(strnlen(s.instance, sizeof(s.instance)) <= STATE_NAME_MAX);
		must(s.content.buf >= buf + before && s.content.buf + s.content.len <= buf + pos);
		if (!strcmp(s.name, CPU_STATE_SECTION))
			cpu_run(s.content);
		content_read(&s.content);
		before = pos;
		n++;
	}
	return n;
}

/* ---- a saved state ---- */

/* The part of the address space that the input provides. */
struct memory {
	struct vmstate_store store;
	uint8_t *data;
	size_t len;
	uint64_t at[4]; /* offsets of the parts: FRONT_BYTES at at[0], WINDOW_BYTES at each other */
};

static int memory_read(struct vmstate_store *s, uint64_t off, void *buf, size_t len)
{
	struct memory *m = container_of(s, struct memory, store);
	uint8_t *to = buf;

	must(off % 4096 == 0 && len % 4096 == 0);
	memset(buf, 0, len);
	for (unsigned i = 0; i < 4; i++) {
		uint64_t place = i ? FRONT_BYTES + (i - 1) * (uint64_t)WINDOW_BYTES : 0;
		uint64_t bytes = place < m->len ? MIN(i ? WINDOW_BYTES : FRONT_BYTES, m->len - place) : 0;
		uint64_t from = MAX(off, m->at[i]), end = MIN(off + len, m->at[i] + bytes);

		if (from < end)
			memcpy(to + (from - off), m->data + place + (from - m->at[i]), end - from);
	}
	return 0;
}

static void vmstate_make_whole(uint8_t *data, size_t len)
{
	if (len < VMSTATE_HEADER_BYTES)
		return;
	if (len > VMSTATE_HEADER_BYTES)
		sections_make_whole(data + VMSTATE_HEADER_BYTES, MIN(len, FRONT_BYTES) - VMSTATE_HEADER_BYTES);
	store_le32(data + VMSTATE_HEADER_BYTES - 4, crc32c(0, data, VMSTATE_HEADER_BYTES - 4));
}

static unsigned ram_read(struct memory *m, const struct vmstate_header *h, const uint32_t *crcs)
{
	uint8_t *block = aligned_alloc(4096, 2 * VMSTATE_BLOCK_BYTES);
	uint64_t n = MIN(h->layout.blocks, 2u);
	unsigned good = 0;
	struct err e;

	must(block);
	good += vmstate_read_blocks(&m->store, h, crcs, 0, n, block, &e) == 0;
	if (h->layout.blocks) {
		must(vmstate_block_len(&h->layout, h->layout.blocks - 1) <= VMSTATE_BLOCK_BYTES);
		good += vmstate_read_blocks(&m->store, h, crcs, h->layout.blocks - 1, 1, block, &e) == 0;
		(void)vmstate_block_is_zero(&h->layout, crcs, h->layout.blocks - 1);
	}
	free(block);
	return good;
}

static unsigned vmstate_run(uint8_t *data, size_t len)
{
	struct memory m = { .store = { .read = memory_read }, .data = data, .len = len,
		.at = { 0, DEFINITION_AT, 16 << 20, UINT64_MAX } };
	struct vmstate_header h;
	uint8_t *sections = NULL;
	char *definition = NULL;
	uint32_t *crcs = NULL;
	unsigned n = 0;
	struct err e;

	if (vmstate_read_header(&m.store, &h, &e) < 0)
		return 0;
	must(h.sections_bytes <= VMSTATE_SECTIONS_MAX_BYTES && h.definition_bytes <= VMSTATE_DEFINITION_MAX_BYTES);
	must(h.layout.ram_bytes <= VMSTATE_RAM_MAX_BYTES && h.layout.ram_offset <= h.layout.total_bytes);
	m.at[3] = h.layout.ram_offset;
	if (vmstate_read_sections(&m.store, &h, &sections, &e) == 0)
		n += sections_run(sections, h.sections_bytes);
	if (vmstate_read_definition(&m.store, &h, &definition, &e) == 0 && definition) {
		must(strlen(definition) <= h.definition_bytes);
		n++;
	}
	if (h.layout.ram_bytes <= RAM_LOOKED_AT && vmstate_read_crcs(&m.store, &h, &crcs, &e) == 0)
		n += ram_read(&m, &h, crcs);
	free(sections);
	free(definition);
	free(crcs);
	return n;
}

/* ---- a tree ---- */

static void tree_make_whole(struct block_snapshot_info *i)
{
	size_t bytes = load_le16(i->extra + 4);

	if (bytes < 8 || bytes > i->extra_bytes)
		return;
	store_le32(i->extra + bytes - 4, crc32c(0, i->extra, bytes - 4));
	/* optional data of a set */
	if (i->extra_bytes - bytes >= 44)
		store_le32(i->extra + bytes + 40, crc32c(0, i->extra + bytes, 40));
}

static bool entry_run(struct block_snapshot_info *i)
{
	struct block_snapshot_info again = { 0 };
	struct tree_data d, e;

	if (!tree_decode(i, &d))
		return false;
	must(strnlen(d.tags, sizeof(d.tags)) <= TREE_TAGS_MAX);
	must(strnlen(d.description, sizeof(d.description)) <= TREE_DESCRIPTION_MAX);
	(void)tree_has_tag(&d, "a");
	tree_encode(&d, &again);
	must(again.extra_bytes <= BLOCK_SNAPSHOT_EXTRA_MAX && tree_decode(&again, &e));
	must(d.parent == e.parent && d.serial == e.serial && d.state == e.state && d.set.mark == e.set.mark);
	must(!strcmp(d.tags, e.tags) && !strcmp(d.description, e.description));
	return true;
}

static void tree_walk(const struct tree *t)
{
	(void)tree_current(t);
	(void)tree_next_serial(t);
	for (size_t i = 0; i < t->n; i++) {
		const struct tree_node *n = &t->nodes[i];

		(void)tree_find(t, n->info.name);
		(void)tree_find_id(t, n->data.parent);
		(void)tree_find_part(t, n);
		(void)tree_is_hidden(n);
		(void)tree_has_set(n);
		(void)tree_id(n);
		(void)tree_name_check(n->info.name, NULL);
	}
}

static unsigned tree_run(const uint8_t *data, size_t len, bool whole)
{
	size_t n = MIN(len / STATE_TREE_ENTRY_BYTES, 16u);
	struct block_snapshot_info *list = calloc(n + 1, sizeof(*list));
	unsigned good = 0;
	struct tree t;

	must(list);
	for (size_t i = 0; i < n; i++, data += STATE_TREE_ENTRY_BYTES) {
		list[i].extra_bytes = MIN(load_le16(data), STATE_TREE_ENTRY_BYTES - 3);
		list[i].vm_state_bytes = data[2];
		memcpy(list[i].extra, data + 3, list[i].extra_bytes);
		list[i].id[0] = (char)('1' + i % 9);
		/* duplicate names, which other programs permit */
		list[i].name[0] = (char)('a' + data[2] % 4);
		if (whole)
			tree_make_whole(&list[i]);
		good += entry_run(&list[i]);
	}
	if (tree_build(list, n, &t) == 0) {
		tree_walk(&t);
		tree_done(&t);
	}
	free(list);
	return good;
}

unsigned state_run(const uint8_t *input, size_t len)
{
	unsigned n;
	uint8_t *data;
	bool whole;

	if (len < 2 || len > STATE_INPUT_MAX)
		return 0;
	data = malloc(len - 1); /* a buffer of its own, so that the sanitizer sees a read past its end */
	must(data);
	memcpy(data, input + 1, len - 1);
	whole = input[0] & STATE_WHOLE;
	switch ((input[0] & ~STATE_WHOLE) % STATE_KINDS) {
	case STATE_SECTIONS:
		if (whole)
			sections_make_whole(data, len - 1);
		n = sections_run(data, len - 1);
		break;
	case STATE_VMSTATE:
		if (whole)
			vmstate_make_whole(data, len - 1);
		n = vmstate_run(data, len - 1);
		break;
	default:
		n = tree_run(data, len - 1, whole);
	}
	free(data);
	return n;
}
