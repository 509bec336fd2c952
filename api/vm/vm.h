/* vm: one defined VM in the daemon: its definition, its state, its process if it has one.
 * vm.c keeps the registry and the state, vm_life.c moves it. */
#ifndef CAIRN_API_VM_VM_H
#define CAIRN_API_VM_VM_H

#include "api/definition/definition.h"
#include "api/jobs/dump.h"
#include "api/policy/idle.h"
#include "api/policy/restart.h"
#include "api/policy/scheduler.h"
#include "api/policy/shutdown.h"
#include "api/schema/vm_state.h"
#include "api/vm/vm_host.h"
#include "base/ratelimit.h"
#include "vmm/vm_msg.h"

struct call;
struct forwards;
struct offline_process;
struct job;
struct json_object;
struct loop_timer;
struct open_as;
struct qmp;
struct start_hold;
struct vm_process;

#define VM_TEMPLATE_FILE "template.json" /* it is one */

/* How to start. */
struct vm_start_opts {
	bool paused;
	bool eager;	 /* with a state: read all memory first */
	bool force_boot; /* drop a managed save */
	bool by_job;	 /* the VM's own job asks */
	bool again;	 /* by itself, after an end */
	bool forked;	 /* state_fd is another VM's, for clones of it (api/jobs/fork.h) */
	bool hint_hostname; /* forked: the guest is told its name, if it has an agent */
	int state_fd;	 /* taken; a saved state to go on from; -1: none (a managed save is, by itself) */
	/* NULL: nobody waits. From the loop or at once; the VM may have ended again. */
	void (*done)(void *opaque, int r, const struct err *e);
	void *opaque;
};

struct vm {
	struct vm_host *host;
	struct definition *def;	 /* what the next start uses */
	struct definition *live; /* what its process was given, if that was redefined since; else NULL */
	enum vm_state state;
	char reason[32];	 /* "booted", "I/O error", … */
	char detail[VM_DETAIL_MAX];
	int64_t value;		 /* debug exit's byte, pvpanic's bits */
	int id;			 /* -1: not running */
	int exit_status;	 /* of the last process; -1: unknown or none yet */
	int exit_signal;	 /* 0: none */
	uint64_t run;		 /* counts the starts; the one under way included */
	uint64_t since_ns;	 /* realtime of the last change of state */
	struct vm_process *proc; /* NULL: none */
	struct vm_start_opts opts; /* of the start under way, or waiting for images */
	/* Once, when its process is gone. */
	void (*when_gone)(struct vm *vm, void *opaque);
	void *when_gone_opaque;
	struct call *gone_calls; /* to be answered when the process is gone */
	struct job *job;	 /* NULL: none */
	struct qmp *qmp;	 /* its own socket; NULL: it has none */
	struct schedule *schedule; /* NULL: none */
	struct schedule_past schedule_past;
	struct start_hold *hold; /* the managed save is being set aside for the start under way; NULL: it is not */
	struct open_as *opener;	 /* opens its files for the start under way; NULL: none */
	struct offline_process *offline;	 /* a process that works on its disks while it is off; NULL: none */
	uint8_t copiers;	 /* that such a process has: for the job that clones it */
	uint8_t agent;		 /* enum vm_agent_state, as last heard */
	uint8_t agent_told;	 /* the same, as events have it */
	struct loop_timer *agent_timer; /* NULL, or there is more to tell then */
	struct {
		struct ratelimit reset, panicked, watchdog, io_error, needs_reset, agent;
	} told; /* what a guest can have told as often as it likes */
	struct dump_state dump;	 /* the last one of its memory */
	bool dump_due;		 /* by policy, once its job is over */
	bool crash_dumped;	 /* its process ends because of that crash */
	bool starting, start_waits, start_queued, destroying, rebooting;
	bool half;		 /* a clone that is being made, or forgotten: its definition says what to remove */
	bool going;		 /* it is being undefined, or made a template */
	bool renaming;		 /* its folder gets another name */
	bool is_template;	 /* its images are only read: the linked clones' disks stand on them */
	bool run_missed;	 /* an earlier daemon started it and did not live to say so */
	bool ended_unseen;	 /* while no daemon ran: its policy is still to be applied */
	bool restoring;		 /* the start under way goes on from a state */
	bool held_managed;	 /* this start uses, or drops, the managed save */
	bool saving;		 /* its process writes its state */
	bool saving_adopted;	 /* the same, asked for by an earlier daemon: no reply comes */
	bool saved_paused;	 /* the managed save is to be paused when it is started */
	bool dropping;		 /* its managed save is being removed */
	bool off_asked;		 /* somebody asked for this shutdown: it stays off then, whatever its policy */
	struct restart restart;
	struct shutdown shutdown;
	struct idle idle;
	struct forwards *forwards; /* sockets that it is woken by; NULL: none yet */
	bool autostart;
	struct vm *start_next; /* behind this one, of the starts that wait */
};

/* ---- registry (vm.c) ---- */

/* By name, or by uuid if no name fits. NULL: none. */
struct vm *vm_find(struct vm_host *host, const char *name_or_uuid);
struct vm *vm_find_uuid(struct vm_host *host, const uint8_t uuid[16]);
/* First one whose name sorts behind `after` ("" : the first of all); NULL: none. */
size_t vm_index_after(struct vm_host *host, const char *after);
/* def: taken on success. Returns 0 or -ENOMEM. */
int vm_add(struct vm_host *host, struct definition *def, struct vm **ret_vm);
/* In the table alone. The VM is off, and nobody has that name. */
void vm_rename(struct vm *vm, const char *name);
/* The VM is off and has no process. */
void vm_remove(struct vm *vm);
/* Frees all; their processes run on. */
void vm_free_all(struct vm_host *host);

/* Follow the table: new state, reason, events, state file. Nothing happens when the table
 * has no row. */
void vm_move(struct vm *vm, enum vm_trigger t, const char *reason, const char *detail,
	int64_t value);
/* The same state for another reason. */
void vm_say_reason(struct vm *vm, const char *reason, const char *detail);
/* Emit an event about this VM. data: taken; NULL: {}. */
void vm_emit(const struct vm *vm, enum event_id id, struct json_object *data);
/* The event alone. */
void vm_emit_change(struct vm *vm, enum vm_state from);
void vm_save(struct vm *vm);
void vm_load_state(struct vm *vm, struct json_object *state);

struct vm_defined {
	const struct definition *def; /* complete: with its uuid */
	struct vm *vm;
	bool created; /* it was not there before */
	bool outdates; /* it has a managed save, which may not fit the new definition */
};

/* What its process has; of one that was redefined before this daemon began: what it would have. */
const struct definition *vm_live(const struct vm *vm);
/* It runs, and its next start will use another definition. */
bool vm_is_pending(const struct vm *vm);

enum vm_define_mode {
	VM_DEFINE,
	VM_REDEFINE, /* only one that is there */
	VM_VALIDATE, /* keeps nothing */
};
/* Keeps a definition (taken) as that of a new VM, or of one that has its name. Its files are
 * looked at, with its rights; emits VM_DEFINED. was: taken; only if the canonical JSON of what is there is
 * that still; NULL: whatever it is.
 * done: exactly once, at once or from the loop. (command_vm.c) */
void vm_define(struct vm_host *host, struct definition *def, enum vm_define_mode mode, struct json_object *was,
	void (*done)(void *opaque, int r, const struct vm_defined *what, const struct err *e),
	void *opaque);

/* ---- life (vm_life.c) ---- */

void vm_start(struct vm *vm, const struct vm_start_opts *opts);
/* The images' process is gone: a start that waited for it goes on. */
void vm_start_goes_on(struct vm *vm);
/* Stop at once. call: answered when the process is gone; NULL: nobody waits. */
void vm_destroy(struct vm *vm, struct call *call);
/* Call that once when the process is gone; a job's, so there is one at a time. */
void vm_when_gone(struct vm *vm, void (*gone)(struct vm *vm, void *opaque), void *opaque);
/* Finds out whether a process of an earlier daemon still runs. */
void vm_take_back(struct vm *vm);
/* Is something under way that excludes `what`? Returns 0 or -EBUSY. */
int vm_check_idle(const struct vm *vm, const char *what, struct err *e);
/* The same for what is asked of its snapshots: a process that looks at its images is no hindrance. */
int vm_check_free(const struct vm *vm, const char *what, struct err *e);

#endif
