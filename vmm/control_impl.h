/* control_impl: the connection to the daemon, for the files that handle its requests. Inner header of control.c.
 * Threading: the loop's thread. */
#ifndef CAIRN_VMM_CONTROL_IMPL_H
#define CAIRN_VMM_CONTROL_IMPL_H

#include "vmm/control.h"
#include "vmm/send_queue.h"
#include "vmm/snapshot/vm_pins.h"
#include "vmm/vm_msg.h"

#include <stdbool.h>
#include <stdint.h>

struct change;
struct channel_msg;
struct clone_disks;
struct err;
struct key_request;
struct loop;
struct loop_timer;
struct loop_watch;
struct memory;
struct vm;
struct worker;

#define LOOKS_MAX 64

struct control {
	int listen_fd, peer_fd;
	struct loop *loop;
	struct loop_watch *listen_watch, *peer_watch;
	struct send_queue waiting; /* messages for the peer */
	struct vm *vm;
	struct worker *worker;
	struct clone_disks *clones; /* NULL: the process runs a VM, and does not only work on images */
	uint64_t config_seq, work_seq;
	uint8_t work_type; /* vm_info.work, while vm_works() */
	uint8_t work_then; /* of a dump: vm_info.work_then */
	bool dump_stays; /* the dump in progress leaves the VM paused */
	bool awaits_cont; /* a dump has left the VM paused, and the daemon still has to say what follows */
	bool handing_over; /* vm_handover() is in progress */
	bool left; /* the process that takes the VM over is ready, and no request is read any more */
	struct memory *memory; /* from VM_MSG_MEMORY; NULL: none */
	bool awaits_go; /* another process hands its VM over and has not sent VM_MSG_GO yet */
	bool for_daemon; /* the work in progress is of use only to the daemon that asked for it: a fork or a pull */
	struct { /* requests to delete pins: the one in progress and the next one */
		bool under_way, waits;
		uint64_t seq, next_seq;
	} pins;
	struct { /* address queries that wait for one common answer */
		uint64_t seqs[LOOKS_MAX];
		unsigned n;
		bool under_way;
	} looks;
	struct change *changes; /* requests, in order, which wait for jobs on the disks (control_disks.c) */
	struct loop_timer *changes_timer;
	struct key_request *keys; /* the first is in progress (control_screen.c) */
	struct loop_timer *keys_timer;
	struct worker *screenshot; /* writes the screenshot under way (control_screen.c); owned; NULL: there is none */
	/* The members below are not zeroed, because most VMs never touch their pages. */
	struct vm_pins pins_next; /* of the request that waits */
	struct vm_addresses addresses; /* of the answer to `looks` */
	_Alignas(16) uint8_t buf[CHANNEL_BODY_MAX];
};

/* A handler returns 0 or -errno, which control_request_begin() sends as the reply; or LATER: the handler has sent an
 * answer, will send one, or none is wanted. For a handler with is_work, 0 means that the end of the work sends the
 * answer. */
#define LATER 1

/* Terminate strings from the peer at the end of their field. */
#define TERMINATE(field) ((field)[sizeof(field) - 1] = 0)

/* Send a message to the daemon, at once or when the daemon has read earlier ones. */
void control_send(struct control *c, enum vm_msg_type type, uint64_t seq, const void *body, size_t len);
/* Answer a request. e: set if r < 0. */
void control_reply(struct control *c, uint64_t seq, int r, const struct err *e);

/* The end of a request that was answered with LATER. opaque: the struct control. */
void control_answer_late(void *opaque, uint64_t seq, int r, const struct err *e);
/* Answer the request whose work has ended; opaque: the struct control. */
void control_work_done(void *opaque, const struct vm_snapshot_done *d);

/* Handlers of requests to the guest agent (control_agent.c). Each returns LATER, or -errno. */
int control_agent(struct control *c, struct channel_msg *m, struct err *e);
int control_addresses(struct control *c, struct channel_msg *m, struct err *e);
int control_agent_command(struct control *c, struct channel_msg *m, struct err *e);

/* Handler of VM_MSG_PLUG, VM_MSG_UNPLUG and VM_MSG_MEDIUM_SET (control_disks.c). While short jobs use the disks, the
 * request waits, for 25 s at most. Returns LATER, 0 or -errno. */
int control_change(struct control *c, struct channel_msg *m, struct err *e);
/* Let a request for work wait until no sizes of snapshots are computed, for 25 s at most. Returns LATER or -errno. */
int control_work_hold(struct control *c, struct channel_msg *m, struct err *e);
/* Answer the first request for work that waits with -ECANCELED. Returns false: none waits. */
bool control_work_cancel_held(struct control *c);
/* Carry out a request (control.c). waited: it waits no longer, and fails if it would have to. */
void control_request_begin(struct control *c, struct channel_msg *m, bool waited);
/* Carry out and answer the requests that wait if nothing uses the disks, or if their time has expired at that moment.
 * opaque: the struct control. */
void control_changes_run(void *opaque, uint64_t expired_ns);
/* Drop the requests that wait: the peer has gone. */
void control_changes_drop(struct control *c);

/* Handlers of requests about disks and interfaces (control_disks.c). Each returns LATER, 0 or -errno. */
int control_interface_set(struct control *c, struct channel_msg *m, struct err *e);
int control_disk_set(struct control *c, struct channel_msg *m, struct err *e);
int control_disk_copy(struct control *c, struct channel_msg *m, struct err *e);
int control_disk_pivot(struct control *c, struct channel_msg *m, struct err *e);
int control_disk_copy_end(struct control *c, struct channel_msg *m, struct err *e);
int control_disk_layers(struct control *c, struct channel_msg *m, struct err *e);
int control_disk_resize(struct control *c, struct channel_msg *m, struct err *e);
int control_disk_commit(struct control *c, struct channel_msg *m, struct err *e);
int control_clone_disk(struct control *c, struct channel_msg *m, struct err *e);

/* Handlers of requests for figures and facts (control_figures.c). Each returns LATER, 0 or -errno. */
int control_query(struct control *c, struct channel_msg *m, struct err *e);
int control_space(struct control *c, struct channel_msg *m, struct err *e);
int control_pci(struct control *c, struct channel_msg *m, struct err *e);
int control_page(struct control *c, struct channel_msg *m, struct err *e);
int control_first_pages(struct control *c, struct channel_msg *m, struct err *e);
int control_dirty_rate(struct control *c, struct channel_msg *m, struct err *e);

/* Handler of VM_MSG_SCREENSHOT (control_screen.c). One screenshot may be under way. Returns LATER, or -errno. */
int control_screenshot(struct control *c, struct channel_msg *m, struct err *e);
/* Handler of VM_MSG_SEND_KEYS. Returns LATER, or -errno. */
int control_send_keys(struct control *c, struct channel_msg *m, struct err *e);
/* Handler of VM_MSG_INPUT. Returns 0 or -errno. */
int control_input(struct control *c, struct channel_msg *m, struct err *e);
/* Do not answer the requests in progress: the peer has gone. */
void control_keys_abandon(struct control *c);
void control_keys_free(struct control *c);

#endif
