/* Targets of the SCSI controller that come and go, and their numbers in a saved state. */
#include "base/cleanup.h"
#include "base/err.h"
#include "base/util.h"
#include "devices/virtio/virtio_scsi_internal.h"
#include "snapshot/state.h"

#include <errno.h>
#include <string.h>

#define ID_BYTES sizeof(((struct scsi_unit *)0)->id)

static struct virtio_scsi *scsi_of(struct device *d)
{
	return container_of(d, struct virtio_scsi, v.dev);
}

/* ---- plugging ---- */

/* Return the free target that was used longest ago: the guest may handle the events of a target that goes and comes in
 * any order. -ENOSPC: there is none. */
static int target_choose(const struct virtio_scsi *s)
{
	for (unsigned i = 0; i < VIRTIO_SCSI_TARGETS_MAX; i++) {
		unsigned target = (s->next_target + i) % VIRTIO_SCSI_TARGETS_MAX;

		if (!s->luns[target])
			return (int)target;
	}
	return -ENOSPC;
}

int virtio_scsi_plug(struct device *d, const struct virtio_scsi_disk *disk, unsigned *ret_target, struct err *e)
{
	struct virtio_scsi *s = scsi_of(d);
	int target = target_choose(s), r;
	struct scsi_lun *l;

	if (target < 0)
		return err_set(e, -ENOSPC, ERR_INVALID, "all %d targets of the SCSI controller are taken; detach one first",
			VIRTIO_SCSI_TARGETS_MAX);
	r = scsi_lun_new(s, (unsigned)target, disk, &l, e);
	if (r < 0)
		return r;
	LOCK_GUARD(&s->v.lock);
	s->luns[target] = l;
	s->next_target = ((unsigned)target + 1) % VIRTIO_SCSI_TARGETS_MAX;
	scsi_event_send(s, (unsigned)target, SCSI_F_HOTPLUG, SCSI_EVENT_TRANSPORT_RESET, SCSI_RESET_RESCAN);
	*ret_target = (unsigned)target;
	return 0;
}

/* Answer the commands that have not begun. A paused device must not write to memory, so its controller accepts them
 * again at the resume, and finds no target. */
static void waiting_end(struct scsi_lun *l)
{
	struct virtio_scsi *s = l->s;
	bool now = virtio_is_running(&s->v);

	while (l->waiting) {
		struct scsi_request *r = l->waiting;

		l->waiting = r->next;
		if (now) {
			scsi_request_respond(r, SCSI_R_BAD_TARGET);
			continue;
		}
		/* Only a driver that adds a chain again before it was used has more commands than there is room. */
		if (s->nloaded < s->requests_max)
			s->loaded[s->nloaded++] = (struct scsi_loaded){ (uint16_t)r->queue, r->elem.head };
		scsi_request_put(r);
	}
	l->waiting_end = &l->waiting;
}

void virtio_scsi_unplug(struct device *d, unsigned target)
{
	struct virtio_scsi *s = scsi_of(d);
	struct scsi_lun *l = s->luns[target];

	pthread_mutex_lock(&s->v.lock);
	s->luns[target] = NULL;
	waiting_end(l);
	scsi_event_send(s, target, SCSI_F_HOTPLUG, SCSI_EVENT_TRANSPORT_RESET, SCSI_RESET_REMOVED);
	pthread_mutex_unlock(&s->v.lock);
	scsi_lun_free(l);
}

int virtio_scsi_find(struct device *d, const char *id)
{
	struct virtio_scsi *s = scsi_of(d);

	LOCK_GUARD(&s->v.lock);
	SCSI_EACH_LUN(s, l)
		if (!strcmp(l->unit.id, id))
			return (int)l->target;
	return -ENOENT;
}

/* ---- the state ---- */

void scsi_targets_save(struct virtio_scsi *s, struct state_writer *w)
{
	uint8_t n = 0;

	LOCK_GUARD(&s->v.lock);
	SCSI_EACH_LUN(s, l)
		n++;
	state_put_u8(w, n);
	SCSI_EACH_LUN(s, l)
	{
		state_put_u8(w, (uint8_t)l->target);
		state_put_bytes(w, l->unit.id, ID_BYTES);
	}
}

static int targets_malformed(const struct virtio_scsi *s, struct err *e)
{
	return err_set(e, -EINVAL, ERR_CORRUPT, "%s: the targets of the state are malformed", s->v.dev.name);
}

/* Version 1 has only the number of units: they are in a row. */
static int units_place(struct virtio_scsi *s, const struct state_reader *r, struct scsi_lun *ret[VIRTIO_SCSI_TARGETS_MAX], struct err *e)
{
	struct state_reader own = *r;
	unsigned n = 0;
	uint32_t saved;

	virtio_pci_state_skip(&own);
	state_u8(&own);
	saved = state_u32(&own);
	SCSI_EACH_LUN(s, l)
		ret[n++] = l;
	if (own.failed)
		return targets_malformed(s, e);
	return saved == n ? 0 : err_set(e, -EINVAL, ERR_INVALID, "%s: the state has %u disks with bus scsi and the VM %u; attach or "
		"detach disks, or drop the state with cairn start --force-boot", s->v.dev.name, saved, n);
}

/* Find the units of the state. ret: the unit that had each target; NULL: none. r: moves behind the targets. */
static int targets_place(struct virtio_scsi *s, struct state_reader *r, uint16_t version, struct scsi_lun *ret[VIRTIO_SCSI_TARGETS_MAX],
	struct err *e)
{
	unsigned n, next = 0;

	memset(ret, 0, VIRTIO_SCSI_TARGETS_MAX * sizeof(ret[0]));
	if (version < 2)
		return units_place(s, r, ret, e);
	n = state_u8(r);
	if (!n) /* a VM without targets has no controller */
		return targets_malformed(s, e);
	for (unsigned i = 0; i < n; i++) {
		unsigned target = state_u8(r);
		char id[ID_BYTES];

		state_bytes(r, id, sizeof(id));
		if (r->failed || target < next || target >= VIRTIO_SCSI_TARGETS_MAX || !id[0] || id[sizeof(id) - 1])
			return targets_malformed(s, e);
		next = target + 1;
		SCSI_EACH_LUN(s, l)
			if (!strcmp(l->unit.id, id))
				ret[target] = l;
		if (!ret[target])
			return err_set(e, -EINVAL, ERR_INVALID, "%s: the state has the disk %s, which this VM lacks; attach it with bus scsi, or "
				"drop the state with cairn start --force-boot", s->v.dev.name, id);
		for (unsigned k = 0; k < target; k++)
			if (ret[k] == ret[target])
				return targets_malformed(s, e);
	}
	return r->failed ? targets_malformed(s, e) : 0;
}

static uint32_t targets_lacking(const struct virtio_scsi *s, struct scsi_lun *const has[VIRTIO_SCSI_TARGETS_MAX])
{
	uint32_t lacks = 0;

	SCSI_EACH_LUN(s, l)
		lacks |= 1u << l->target;
	for (unsigned i = 0; i < VIRTIO_SCSI_TARGETS_MAX; i++)
		lacks &= ~(has[i] ? 1u << has[i]->target : 0);
	return lacks;
}

int virtio_scsi_state_compare(struct device *d, const struct state_reader *content, uint16_t version, uint32_t *ret_lacks,
	struct state_reader *ret_rest, struct err *e)
{
	struct scsi_lun *has[VIRTIO_SCSI_TARGETS_MAX];
	struct virtio_scsi *s = scsi_of(d);
	struct state_reader r = *content;
	int res;

	LOCK_GUARD(&s->v.lock);
	*ret_lacks = 0;
	res = targets_place(s, &r, version, has, e);
	if (res < 0)
		return res;
	*ret_lacks = targets_lacking(s, has);
	if (ret_rest)
		*ret_rest = r;
	return 0;
}

int scsi_targets_load(struct virtio_scsi *s, struct state_reader *r, uint16_t version, struct err *e)
{
	struct scsi_lun *has[VIRTIO_SCSI_TARGETS_MAX];
	int res;

	LOCK_GUARD(&s->v.lock);
	res = targets_place(s, r, version, has, e);
	if (!res && targets_lacking(s, has))
		res = err_set(e, -EINVAL, ERR_INVALID, "%s: the state lacks a disk with bus scsi that this VM has; detach it, or drop the state "
			"with cairn start --force-boot", s->v.dev.name);
	if (res < 0)
		return res;
	memcpy(s->luns, has, sizeof(has));
	for (unsigned i = 0; i < VIRTIO_SCSI_TARGETS_MAX; i++)
		if (s->luns[i]) {
			s->luns[i]->target = i;
			s->next_target = (i + 1) % VIRTIO_SCSI_TARGETS_MAX;
		}
	return 0;
}
