/* fork_impl: internals of api/jobs/fork.h that its source files share. Threading: the daemon's loop. */
#ifndef CAIRN_API_JOBS_FORK_IMPL_H
#define CAIRN_API_JOBS_FORK_IMPL_H

#include "api/jobs/fork.h"
#include "api/jobs/start_gate.h"
#include "api/store/store.h"
#include "base/loop.h"
#include "vmm/vm_msg.h"

#include <stdbool.h>
#include <stdint.h>

struct clone {
	struct fork *fork;
	struct definition *def; /* owned until the VM takes it */
	struct definition *live; /* with forwards for its first run; owned until the VM starts; NULL: none */
	struct gated gated;
	struct vm *vm;		/* the clone, of which this job is the owner until the job ends */
};

struct fork {
	struct vm_host *host;
	struct vm *source;
	struct job *job;
	struct batch *batch;
	struct clone *clones;
	unsigned n, next, begun, running;
	struct start_gate gate;
	int state_fd; /* memfd with the source's state */
	int ready_fd; /* eventfd: readable when the clones may use state_fd and their disks */
	/* Copies of parts of the source's definition, since the source may be redefined meanwhile. */
	char *images[VM_DISKS_MAX];   /* paths of the writable disks' images; NULL: the disk is read-only */
	bool pinned[VM_DISKS_MAX];    /* the clones get overlays on a pin of the image */
	bool flat[VM_DISKS_MAX];      /* the clones get copies without backing files */
	const char *why_copied[VM_DISKS_MAX]; /* static text; NULL: the clones get overlays. Unused if read-only */
	uint8_t pins[VM_DISKS_MAX][VM_PIN_ID_BYTES];
	bool may_share[VM_DISKS_MAX]; /* the clones' overlays may read the pin `earlier` instead */
	uint8_t earlier[VM_DISKS_MAX][VM_PIN_ID_BYTES];
	bool pins_changed; /* the list of pins, since it was stored */
	struct fork_as *sealing; /* NULL: not begun, or ended */
	struct definition *disks; /* owned: the source's definition, of which `files` has the authors and disks; it may be replaced meanwhile */
	struct fork_images *files;    /* for each writable disk: its image, then one file for each clone */
	char snapshot[VM_SNAPSHOT_NAME_MAX + 1]; /* empty: clone the VM's present state */
	uint8_t spare[16]; /* UUID of the first clone, which a spare has (api/vm/vm_spare.h); all 0: none has */
	void (*group_stage)(void *opaque, int64_t stage); /* as in struct fork_opts */
	void *group_opaque;
	struct json_object *peers; /* owned; from fork_set_peers(); NULL: none */
	bool paused, hint_hostname, isolated, ephemeral, publishes, loop_runs;
	bool asked, answered; /* the source's process has the request; has answered */
	bool ready; /* the state and the disks are written */
	bool sealed; /* and the state's file is sealed, so all clones may start */
	bool durable; /* they are on stable storage, with the pins */
	bool measures, measured; /* made_bytes is being found; is known */
	bool ended; /* fork_end() was called */
	uint64_t image_bytes; /* bytes that the images of one clone add to a quota */
	uint64_t made_bytes[VM_DISKS_MAX]; /* space that the first clone's files occupied when they were written */
	uint64_t begun_ns;
	struct vm_snapshot_done taken; /* the source's answer */
	struct loop_task task;
	struct store_work stored;
};

/* ---- fork_definitions.c ---- */

/* Make the clones' definitions: those of the source with names, UUIDs, MAC addresses and paths of disks of their own.
 * Returns 0; -errno. */
int fork_define_clones(struct fork *f, const struct fork_opts *opts, struct err *e);

/* ---- fork_overlays.c: overlays or copies ---- */

/* Choose the disks that become overlays, and draw the pins' ids.
 * Returns 0; -ENOTSUP: a disk cannot be isolated; -errno. */
int fork_choose_pins(struct fork *f, const struct fork_opts *opts, struct err *e);
/* Make each pinned disk's image the first backing file of the clones' disks. Drop the backing files of flat disks.
 * o: the clones' definition, which is changed. */
void fork_put_backing(const struct fork *f, struct json_object *o);
/* Store which overlays read which pins, before the pins are made. A copy of an overlay reads the same pin as the
 * overlay. Returns 0 or -errno. */
int fork_note_pins(struct fork *f, struct err *e);
/* Fill in the request's members about the disks. */
void fork_put_pins(const struct fork *f, struct vm_fork *body);
/* Return the length of the request that the source's process expects. */
size_t fork_request_bytes(const struct fork *f);
/* Return whether the clones have overlays, as the answer says. made: of disk i, enum vm_disk_made. */
bool fork_is_overlay(const struct fork *f, unsigned i, uint8_t made);
/* Note which pins the overlays read, as the answer says. The clones may be gone by now. */
void fork_resolve_pins(struct fork *f);
/* Note that the VM's process has copied disk i, which was to be pinned, because its image can hold no pin. Remove the
 * source's image from the backing files of the clones' disks. The caller stores the list of pins. */
void fork_set_copied(struct fork *f, unsigned i);

#endif
