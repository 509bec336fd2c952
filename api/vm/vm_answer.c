#include "api/vm/vm_answer.h"
#include "api/vm/vm_process.h"
#include "base/err.h"
#include "base/file.h"
#include "base/utf8.h"
#include "base/util.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

/* Maximum per VM, because a qcow2 image has at most 65536 snapshots. */
#define SNAPSHOTS_MAX 65536

void vm_event_clean(struct vm_event *ev)
{
	ev->device[sizeof(ev->device) - 1] = 0;
	ev->detail[sizeof(ev->detail) - 1] = 0;
	utf8_clean(ev->device);
	utf8_clean(ev->detail);
}

/* Take the error from a reply and clean its text. Returns 0: no error; -EREMOTEIO. */
static int fault_take(int32_t error, uint32_t cls, char msg[480], struct err *e)
{
	if (!error)
		return 0;
	msg[479] = 0;
	e->cls = cls < ERR_CLASS_COUNT ? cls : ERR_GENERIC;
	snprintf(e->msg, sizeof(e->msg), "%s", msg[0] ? msg : "the VM's process gave no reason");
	utf8_clean(e->msg);
	return -EREMOTEIO;
}

static void snapshots_clean(struct vm_snapshots *s)
{
	for (uint32_t i = 0; i < s->n; i++) {
		struct vm_snapshot_info *info = &s->list[i];
		struct {
			char *text;
			size_t size;
		} texts[] = { { info->id, sizeof(info->id) }, { info->parent, sizeof(info->parent) },
			{ info->name, sizeof(info->name) },
			{ info->description, sizeof(info->description) },
			{ info->tags, sizeof(info->tags) } };

		for (size_t k = 0; k < ARRAY_SIZE(texts); k++) {
			texts[k].text[texts[k].size - 1] = 0;
			utf8_clean(texts[k].text);
		}
	}
}

/* Terminate and clean the names. Returns false if the count exceeds the array. */
static bool addresses_clean(struct vm_addresses *all)
{
	if (all->n > VM_ADDRESSES_MAX)
		return false;
	for (uint32_t i = 0; i < all->n; i++) {
		all->list[i].name[sizeof(all->list[i].name) - 1] = 0;
		utf8_clean(all->list[i].name);
	}
	return true;
}

static bool pci_clean(struct vm_pci *all)
{
	if (all->n > VM_PCI_DEVICES_MAX)
		return false;
	for (uint32_t i = 0; i < all->n; i++) {
		struct vm_pci_device *d = &all->devices[i];

		d->id[sizeof(d->id) - 1] = 0;
		utf8_clean(d->id);
		if (d->nregions > VM_PCI_REGIONS_MAX)
			return false;
	}
	return true;
}

/* Point the message's member of *a to the message's body. Terminate and clean the body's texts, except those of struct
 * vm_info. *ret_r: the error in the message, or 0. Returns false if a count in the message is wrong. */
static bool answer_fill(const struct channel_msg *m, struct vm_answer *a, int *ret_r, struct err *e)
{
	struct vm_snapshots *s = m->body;
	struct vm_snapshot_done *d = m->body;
	struct vm_reply *reply = m->body;

	*ret_r = 0;
	switch (m->head.type) {
	case VM_MSG_INFO:
		a->info = m->body;
		return true;
	case VM_MSG_SNAPSHOTS:
		if (s->n > VM_SNAPSHOTS_PER_MESSAGE || s->total > SNAPSHOTS_MAX ||
			m->head.body_bytes != offsetof(struct vm_snapshots, list) +
				s->n * sizeof(s->list[0]))
			return false;
		snapshots_clean(s);
		a->snapshots = s;
		return true;
	case VM_MSG_SPACES:
		a->spaces = m->body;
		return true;
	case VM_MSG_ADDRESS_LIST:
		a->addresses = m->body;
		return addresses_clean(m->body);
	case VM_MSG_PCI_LIST:
		a->pci = m->body;
		return pci_clean(m->body);
	case VM_MSG_AGENT_ANSWER:
		a->agent = m->body;
		return a->agent->bytes <= VM_AGENT_ANSWER_MAX;
	case VM_MSG_SNAPSHOT_DONE:
		d->id[sizeof(d->id) - 1] = 0;
		utf8_clean(d->id);
		d->left_out[sizeof(d->left_out) - 1] = 0;
		utf8_clean(d->left_out);
		d->memory_tracking_reason[sizeof(d->memory_tracking_reason) - 1] = 0;
		utf8_clean(d->memory_tracking_reason);
		a->snapshot = d;
		*ret_r = fault_take(d->error, d->cls, d->msg, e);
		return true;
	default:
		*ret_r = fault_take(reply->error, reply->cls, reply->msg, e);
		reply->msg[sizeof(reply->msg) - 1] = 0;
		if (!*ret_r && reply->msg[0]) {
			utf8_clean(reply->msg);
			a->note = reply->msg;
		}
		return true;
	}
}

/* For each request, the type of the message that reports success; 0: VM_MSG_REPLY. */
static const uint8_t answer_types[VM_MSG_TYPE_COUNT] = {
	[VM_MSG_QUERY] = VM_MSG_INFO,
	[VM_MSG_SNAPSHOT_LIST] = VM_MSG_SNAPSHOTS,
	[VM_MSG_SNAPSHOT_SIZE] = VM_MSG_SNAPSHOTS,
	[VM_MSG_SPACE] = VM_MSG_SPACES,
	[VM_MSG_PCI] = VM_MSG_PCI_LIST,
	[VM_MSG_ADDRESSES] = VM_MSG_ADDRESS_LIST,
	[VM_MSG_AGENT_COMMAND] = VM_MSG_AGENT_ANSWER,
	[VM_MSG_SNAPSHOT_CREATE] = VM_MSG_SNAPSHOT_DONE,
	[VM_MSG_SNAPSHOT_REVERT] = VM_MSG_SNAPSHOT_DONE,
	[VM_MSG_FORK] = VM_MSG_SNAPSHOT_DONE,
	[VM_MSG_DUMP] = VM_MSG_SNAPSHOT_DONE,
	[VM_MSG_RECLAIM] = VM_MSG_SNAPSHOT_DONE,
};

/* Whether a message that reports success has the type that the request expects. (An error may come as VM_MSG_REPLY to
 * any request.) */
static bool answer_fits(enum vm_msg_type request, unsigned type)
{
	unsigned want = answer_types[request] ? answer_types[request] : VM_MSG_REPLY;

	/* An older process answers a revert by VM_MSG_REPLY. Work is answered as the request that began it. */
	return type == want || (request == VM_MSG_SNAPSHOT_REVERT && type == VM_MSG_REPLY) ||
		(request == VM_MSG_WORK && type == VM_MSG_SNAPSHOT_DONE);
}

bool vm_answer_take(const struct channel_msg *m, enum vm_msg_type request, struct vm_answer *ret_a, int *ret_r, struct err *e)
{
	if (!answer_fill(m, ret_a, ret_r, e))
		return false;
	if (!*ret_r && !answer_fits(request, m->head.type)) {
		memset(ret_a, 0, sizeof(*ret_a));
		*ret_r = err_set(e, -EPROTO, ERR_GENERIC, "the VM's process sent an unexpected answer");
	}
	return true;
}

/* ---- the end file ---- */

unsigned vm_end_version(int end_fd)
{
	uint64_t version;

	if (pread_full(end_fd, &version, sizeof(version), VM_END_VERSION) < 0)
		version = 1;
	return version >= VM_MSG_VERSION_OLDEST && version <= VM_MSG_VERSION ? (unsigned)version : 0;
}

bool vm_end_read(int end_fd, struct vm_event *ret_ev)
{
	/* Every known version has the same struct vm_event. */
	if (!vm_end_version(end_fd) || pread_full(end_fd, ret_ev, sizeof(*ret_ev), 0) < 0)
		return false;
	vm_event_clean(ret_ev);
	return ret_ev->kind == VM_EVENT_PHASE && ret_ev->phase == VM_PHASE_ENDED;
}

enum vm_end_before vm_end_before(int end_fd)
{
	uint64_t before;

	if (!vm_end_version(end_fd) || pread_full(end_fd, &before, sizeof(before), VM_END_BEFORE) < 0 || before > VM_BEFORE_SAVED)
		return VM_BEFORE_UNKNOWN;
	return (enum vm_end_before)before;
}

bool vm_end_never_ran(int end_fd)
{
	struct vm_event said;
	uint64_t ran;

	return pread_full(end_fd, &ran, sizeof(ran), VM_END_RAN) == 0 && ran == VM_RAN_NOT && !vm_end_read(end_fd, &said);
}
