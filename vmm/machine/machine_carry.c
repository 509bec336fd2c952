#include "vmm/machine/machine_carry.h"
#include "base/bitmap.h"
#include "base/channel.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "devices/console.h"
#include "devices/virtio/virtio_blk.h"
#include "devices/virtio/virtio_scsi.h"
#include "snapshot/fault_tracker.h"
#include "snapshot/state.h"
#include "vmm/agent/agent.h"
#include "vmm/machine/display_link.h"
#include "vmm/machine/machine.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#define FIGURES_SECTION "figures" /* struct vm_info, which only grows at its end */
#define MEMORY_SECTION "memory" /* base_id, u64 number of blocks, a bit for each block that differs from the base's */
#define CONSOLE_SECTION "console"
#define SECTIONS_VERSION 1 /* of all */

static const char *const console_names[] = { [VM_CONSOLE_SERIAL] = "serial", [VM_CONSOLE_VIRTIO] = "virtio" };

_Static_assert(ARRAY_SIZE(console_names) * CONSOLE_READERS_MAX <= CHANNEL_FDS_MAX &&
	ARRAY_SIZE(((struct vm_go *)0)->clients) == CHANNEL_FDS_MAX, "one message holds the clients of all consoles");

/* ---- figures ---- */

static void counters_add(void *to, const void *from, size_t first, size_t last)
{
	for (size_t at = first; at <= last; at += sizeof(uint64_t))
		*(uint64_t *)((char *)to + at) += *(const uint64_t *)((const char *)from + at);
}

/* Add the members of *from from `first` to `last`, all of them uint64_t, to those of *to. */
#define COUNTERS_ADD(to, from, first, last) \
	counters_add(to, from, offsetof(__typeof__(*(to)), first), offsetof(__typeof__(*(to)), last))

void machine_carry_figures(const struct machine *m, struct vm_info *i)
{
	const struct vm_info *from = &m->carried;

	COUNTERS_ADD(i, from, exits_io, assist_instructions);
	for (unsigned n = 0; n < i->vcpus; n++)
		i->vcpu_ns[n] += from->vcpu_ns[n];
	for (unsigned n = 0; n < i->ndisks; n++)
		if (i->disk_faults[n] == VM_DISK_FINE)
			i->disk_faults[n] = from->disk_faults[n];
}

/* The counters of devices continue from there. */
static void devices_carry(struct machine *m)
{
	for (unsigned i = 0; i < MIN(m->nnics, m->carried.ninterfaces); i++)
		nic_carry(&m->nics[i], &m->carried.interfaces[i]);
	for (unsigned i = 0; i < MIN(m->ndisks, m->carried.ndisks); i++) {
		const struct vm_disk_info *d = &m->carried.disks[i];
		const struct virtio_blk_stats s = { d->rd_reqs, d->rd_bytes, d->rd_ns, d->wr_reqs, d->wr_bytes, d->wr_ns,
			d->fl_reqs, d->fl_ns, d->errors, 0 };

		if (m->disks[i].scsi)
			virtio_scsi_carry(m->disks[i].dev, m->disks[i].target, &s);
		else
			virtio_blk_carry(m->disks[i].dev, &s);
	}
}

static void figures_put(struct machine *m, struct state_writer *w)
{
	struct vm_info i = { 0 };

	machine_info(m, &i);
	state_section_begin(w, FIGURES_SECTION, "", SECTIONS_VERSION);
	state_put_bytes(w, &i, sizeof(i));
	state_section_end(w);
}

static void figures_load(struct machine *m, struct state_reader *r)
{
	state_bytes(r, &m->carried, MIN(r->len, sizeof(m->carried)));
	r->pos = r->len; /* a newer process knows more figures */
	devices_carry(m);
	if (m->carried.agent == VM_AGENT_ANSWERS)
		agent_carried(m->agent);
}

/* ---- memory: the last snapshot, and the blocks written since ---- */

static size_t words_bytes(const struct bitmap *b)
{
	return DIV_ROUND_UP(b->nbits, 64) * sizeof(b->words[0]);
}

static void memory_put(struct machine *m, struct state_writer *w)
{
	struct bitmap dirty;
	struct err e;

	if (!m->base_id[0] || bitmap_init(&dirty, DIV_ROUND_UP(m->mem.bytes, VMSTATE_BLOCK_BYTES)) < 0)
		return; /* the successor's first snapshot writes all memory */
	if (dirty_log_is_on(&m->dirty_log)) {
		if (dirty_log_collect(&m->dirty_log, NULL, &e) < 0)
			log_warn(NULL, "%s; the next snapshot writes all memory", e.msg);
		bitmap_or(&dirty, &m->dirty_log.written);
	}
	if (m->tracker && m->uffd.can_protect)
		fault_tracker_dirty(m->tracker, &dirty);
	state_section_begin(w, MEMORY_SECTION, "", SECTIONS_VERSION);
	state_put_bytes(w, m->base_id, sizeof(m->base_id));
	state_put_u64(w, dirty.nbits);
	state_put_bytes(w, dirty.words, words_bytes(&dirty));
	state_section_end(w);
	bitmap_done(&dirty);
}

/* The dirty log is on, and counts all blocks as written so far. */
static void memory_load(struct machine *m, struct state_reader *r)
{
	struct bitmap *written = &m->dirty_log.written;
	char base[sizeof(m->base_id)];

	if (!dirty_log_is_on(&m->dirty_log)) {
		r->pos = r->len;
		return;
	}
	state_bytes(r, base, sizeof(base));
	if (state_u64(r) != written->nbits || r->len - r->pos != words_bytes(written) || base[sizeof(base) - 1])
		return; /* bytes remain, so the section is malformed */
	state_bytes(r, written->words, words_bytes(written));
	memcpy(m->base_id, base, sizeof(base));
}

/* ---- sections ---- */

void machine_carry_save(struct machine *m, struct state_writer *w)
{
	for (unsigned i = 0; i < VM_CONSOLE_COUNT; i++)
		console_hold(m->consoles[i]);
	figures_put(m, w);
	memory_put(m, w);
	for (unsigned i = 0; i < ARRAY_SIZE(console_names); i++) {
		if (!m->consoles[i])
			continue;
		state_section_begin(w, CONSOLE_SECTION, console_names[i], SECTIONS_VERSION);
		console_save(m->consoles[i], w);
		state_section_end(w);
	}
}

void machine_carry_release(struct machine *m)
{
	for (unsigned i = 0; i < VM_CONSOLE_COUNT; i++)
		console_release(m->consoles[i]);
}

size_t machine_carry_find(const uint8_t *buf, size_t len)
{
	struct state_section s;
	size_t pos = 0, at = 0;

	while (state_section_next(buf, len, &pos, &s, NULL) > 0) {
		if (!strcmp(s.name, FIGURES_SECTION))
			return at;
		at = pos;
	}
	return len;
}

static struct console *console_find(struct machine *m, const char *name)
{
	for (unsigned i = 0; i < ARRAY_SIZE(console_names); i++)
		if (!strcmp(name, console_names[i]))
			return m->consoles[i];
	return NULL;
}

static int section_load(struct machine *m, struct state_section *s, struct err *e)
{
	struct console *c = strcmp(s->name, CONSOLE_SECTION) ? NULL : console_find(m, s->instance);

	bool memory = !strcmp(s->name, MEMORY_SECTION);

	if (s->version != SECTIONS_VERSION || (!c && !memory && strcmp(s->name, FIGURES_SECTION)))
		return err_set(e, -EINVAL, ERR_UNSUPPORTED, "the other process carries a section %s '%s' of version %u, "
			"which this Cairn does not know", s->name, s->instance, s->version);
	if (c)
		console_load(c, &s->content);
	else if (memory)
		memory_load(m, &s->content);
	else
		figures_load(m, &s->content);
	return state_reader_complete(&s->content) ? 0 :
		err_set(e, -EINVAL, ERR_CORRUPT, "the other process's section %s '%s' is malformed", s->name, s->instance);
}

int machine_carry_load(struct machine *m, const uint8_t *buf, size_t len, struct err *e)
{
	struct state_section s;
	size_t pos = 0;
	int r;

	while ((r = state_section_next(buf, len, &pos, &s, e)) > 0) {
		r = section_load(m, &s, e);
		if (r < 0)
			return r;
	}
	return r;
}

/* ---- clients of the consoles ---- */

void machine_carry_clients(struct machine *m, struct vm_go *go, int *fds)
{
	struct console_client clients[CONSOLE_READERS_MAX];

	*go = (struct vm_go){ 0 };
	for (unsigned i = 0; i < ARRAY_SIZE(console_names); i++) {
		unsigned n = m->consoles[i] ? console_clients(m->consoles[i], clients) : 0;

		for (unsigned k = 0; k < n; k++) {
			struct vm_go_client *to = &go->clients[go->n];

			to->console = i;
			to->sent = clients[k].sent;
			to->user = clients[k].who.user;
			to->group = clients[k].who.group;
			memcpy(to->note, clients[k].note, sizeof(to->note));
			fds[go->n++] = clients[k].fd;
		}
	}
	if (m->display && display_link_fd(m->display) >= 0 && go->n < CHANNEL_FDS_MAX) {
		go->clients[go->n].console = VM_GO_DISPLAY;
		fds[go->n++] = display_link_fd(m->display);
	}
}

static int client_attach(struct machine *m, const struct vm_go_client *from, int fd, struct err *e)
{
	struct console_client client = { .fd = fd, .sent = from->sent, .who = { .user = from->user, .group = from->group } };
	struct console *c = from->console < ARRAY_SIZE(console_names) ? m->consoles[from->console] : NULL;

	_Static_assert(sizeof(client.note) == sizeof(from->note), "a note is copied whole");
	if (from->console == VM_GO_DISPLAY && !m->display)
		return display_link_new(m, fd, &m->display, e);
	memcpy(client.note, from->note, sizeof(client.note));
	return c ? console_attach_client(c, &client, e) : err_set(e, -EINVAL, ERR_INVALID, "no such console");
}

void machine_carry_attach(struct machine *m, const struct vm_go *go, const int *fds, unsigned nfds)
{
	struct err e;

	for (unsigned i = 0; i < nfds; i++) {
		if (client_attach(m, &go->clients[i], fds[i], &e) < 0) {
			log_warn(NULL, "a client of a console or of the screen is detached: %s", e.msg);
			close(fds[i]);
		}
	}
}
