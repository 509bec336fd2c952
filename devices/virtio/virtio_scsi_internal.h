/* virtio_scsi_internal: structures of the SCSI controller. */
#ifndef CAIRN_DEVICES_VIRTIO_VIRTIO_SCSI_INTERNAL_H
#define CAIRN_DEVICES_VIRTIO_VIRTIO_SCSI_INTERNAL_H

#include "base/loop.h"
#include "block/block.h"
#include "devices/virtio/disk_counters.h"
#include "devices/virtio/scsi.h"
#include "devices/virtio/virtio_pci.h"
#include "devices/virtio/virtio_scsi.h"

struct virtio_scsi;
struct scsi_lun;

/* The rings (5.6.2). */
enum { SCSI_QUEUE_CONTROL = 0, SCSI_QUEUE_EVENT = 1, SCSI_QUEUE_FIRST = 2 };

/* Responses (5.6.6). */
enum scsi_response {
	SCSI_R_OK = 0, SCSI_R_OVERRUN = 1, SCSI_R_ABORTED = 2, SCSI_R_BAD_TARGET = 3, SCSI_R_RESET = 4, SCSI_R_FAILURE = 9,
	SCSI_R_SUCCEEDED = 10, SCSI_R_REJECTED = 11, SCSI_R_INCORRECT_LUN = 12,
};

/* A command, from the ring to the block layer and back. Allocated on demand and kept for reuse. */
struct scsi_request {
	struct virtio_scsi *s;
	struct scsi_lun *lun; /* NULL: in `free` */
	struct scsi_request *next; /* in `free` or in the unit's `waiting` */
	struct scsi_request *all;  /* in the controller's `all` */
	unsigned queue;
	bool in_flight;
	bool write;
	uint64_t tag;
	uint64_t start_ns;
	uint8_t cdb[SCSI_CDB_BYTES];
	uint64_t transferred; /* bytes of data from the device, once it is complete */
	struct block_req req;
	struct iovec data[VIRTQUEUE_SEGS_MAX]; /* of the transfer; elem.iov stays as the driver gave it */
	struct virtqueue_elem elem;
};

/* A task management function that waits for the requests in flight of its unit. */
struct scsi_tmf {
	struct scsi_tmf *next;
	uint32_t subtype;
	uint64_t tag;
	struct virtqueue_elem elem;
};

/* A target with its logical unit. Fields without a comment of their own: protected by the controller's lock. */
struct scsi_lun {
	struct virtio_scsi *s; /* constant, as the next lines */
	struct loop *loop;
	enum virtio_blk_errors errors;
	enum block_zeroes detect_zeroes;
	bool no_discard;
	uint32_t logical_bytes;
	unsigned target; /* its index in luns; a load changes it */
	struct block *block; /* NULL: no medium */
	struct block_listener listener;
	struct disk_counters stats; /* atomic */
	struct scsi_unit unit;
	struct scsi_request *waiting, **waiting_end; /* commands that have not begun, oldest first */
	unsigned in_flight;
	struct scsi_tmf *tmfs;
	struct loop_task task; /* runs the waiting commands on `loop` */
	bool posted;
	bool held; /* begin nothing until virtio_scsi_set_medium(), virtio_scsi_release() or virtio_scsi_unplug() */
	bool told_of_reservations;
	struct disk_throttle throttle;
	bool resting; /* a limit of all commands is reached: begin nothing until the timer `rest` */
	struct loop_timer *rest;
};

struct scsi_loaded {
	uint16_t queue, head;
};

struct virtio_scsi {
	struct virtio_dev v;
	struct virtio_pci pci;
	pthread_cond_t idle; /* signalled when a unit's in_flight drops to 0, or when its task has run */
	/* protected by v.lock: */
	struct scsi_lun *luns[VIRTIO_SCSI_TARGETS_MAX]; /* [target]; owned; NULL: there is no such target */
	unsigned next_target; /* where the search for a free target begins */
	bool held_wait; /* begin nothing until the resume, since an error stopped the VM */
	bool starved;	/* requests wait in a ring for a free scsi_request */
	bool events_missed;
	unsigned nrequests, requests_max;
	unsigned ntmfs; /* task management functions that wait */
	struct scsi_request *free, *all;
	struct loop_poller poller;
	bool polled; /* constant */
	struct scsi_loaded *loaded; /* commands of a saved state that have not begun, oldest first from loaded[nloaded - 1] on */
	unsigned nloaded;
};

/* virtio_scsi.c */
/* Serve a ring. v->lock is held. */
void scsi_run(struct virtio_dev *v, unsigned qi);
void scsi_request_put(struct scsi_request *r);
void scsi_request_respond(struct scsi_request *r, enum scsi_response response);
struct scsi_lun *scsi_lun_find(struct virtio_scsi *s, const uint8_t lun[8], bool *ret_unit_0);

/* virtio_scsi_lun.c */
/* Create a unit that no list has yet. scsi_lun_free() frees it, while its loop's thread does not run; NULL allowed. */
int scsi_lun_new(struct virtio_scsi *s, unsigned target, const struct virtio_scsi_disk *d, struct scsi_lun **ret_l, struct err *e);
void scsi_lun_free(struct scsi_lun *l);
/* Queue a command, and begin it if the caller is on the unit's loop. */
void scsi_lun_append(struct scsi_lun *l, struct scsi_request *r);
/* Let the unit's loop begin the commands that wait. here: the caller is on the controller's loop. */
void scsi_lun_run(struct scsi_lun *l, bool here);
/* Drop the commands that wait, after a reset of the controller. */
void scsi_lun_drop(struct scsi_lun *l);

/* virtio_scsi_poll.c */
/* Let the controller's loop poll the rings of commands, if it polls for no other device. */
void scsi_poll_begin(struct virtio_scsi *s, uint32_t max_ns);
/* Returns whether the controller takes commands from the rings. */
bool scsi_takes(const struct virtio_scsi *s);

/* virtio_scsi_control.c */
void scsi_control_run(struct virtio_scsi *s);
/* Finish the functions that waited for the unit. */
void scsi_tmfs_finish(struct scsi_lun *l);
void scsi_tmfs_drop(struct scsi_lun *l);
/* Send an event of a target, if the driver has negotiated `feature`. If there is no buffer for it, or the device is
 * paused, the driver learns later that it has missed events. */
void scsi_event_send(struct virtio_scsi *s, unsigned target, uint64_t feature, uint32_t event, uint32_t reason);
/* The event ring may have buffers: tell the driver if it has missed events. */
void scsi_events_run(struct virtio_scsi *s);

/* virtio_scsi_plug.c: the targets' part of the state, see scsi_dev_save() */
void scsi_targets_save(struct virtio_scsi *s, struct state_writer *w);
/* Put the units at the targets that they had. version: of the state. */
int scsi_targets_load(struct virtio_scsi *s, struct state_reader *r, uint16_t version, struct err *e);

/* For each target that there is. */
#define SCSI_EACH_LUN(s, l) \
	for (unsigned l##_at = 0; l##_at < VIRTIO_SCSI_TARGETS_MAX; l##_at++) \
		for (struct scsi_lun *l = (s)->luns[l##_at]; l; l = NULL)

#define SCSI_F_HOTPLUG (1ULL << 1)
#define SCSI_F_CHANGE (1ULL << 2)
#define SCSI_EVENT_NONE 0
#define SCSI_EVENT_TRANSPORT_RESET 1
#define SCSI_RESET_RESCAN 1
#define SCSI_RESET_REMOVED 2
#define SCSI_EVENT_PARAM_CHANGE 3

#endif
