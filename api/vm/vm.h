/* vm: one defined VM in the daemon: its definition, its state, its process if it has one.
 * vm.c keeps the registry and the state, vm_life.c moves it. */
#ifndef CAIRN_API_VM_VM_H
#define CAIRN_API_VM_VM_H

#include "api/definition/definition.h"
#include "api/schema/vm_state.h"
#include "api/vm/operation.h"
#include "api/vm/vm_host.h"
#include "base/ratelimit.h"
#include "vmm/vm_msg.h"

struct call;
struct dump_state;
struct forwards;
struct idle;
struct job;
struct json_object;
struct loop_timer;
struct offline_process;
struct open_as;
struct qmp;
struct restart;
struct schedule;
struct schedule_past;
struct shutdown;
struct vm_process;

/* Files of the managed save in the VM's folder (api/jobs/save.h). */
#define SAVE_MANAGED "managed.save"
#define SAVE_MANAGED_TMP "managed.save.tmp"
#define SAVE_MANAGED_USED "managed.save.used"
/* Reasons of a VM that sleeps because it was idle, and of one that was woken. */
#define VM_ASLEEP "idle"
#define VM_WOKEN "woken"

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
	const char *woken_by; /* with a state: detail of a VM that a client woke; borrowed. NULL or "": nobody did */
	int state_fd;	 /* taken; a saved state to go on from; -1: none (a managed save is, by itself) */
	/* NULL: nobody waits. From the loop or at once; the VM may have ended again. */
	void (*done)(void *opaque, int r, const struct err *e);
	void *opaque;
};

/* The start that is under way, or waits. */
struct vm_start_op {
	enum vm_operation_kind kind; /* VM_OP_NONE, or a VM_OP_START… */
	struct vm_start_opts opts;
	bool from_state;	 /* it goes on from a state */
	bool holds_save;	 /* it uses, or drops, the managed save */
	struct open_as *opener;	 /* VM_OP_START_OPENS; else NULL */
	struct vm *next;	 /* behind this one, of those that are queued */
};

/* What is known of a VM, whatever is under way. */
enum vm_fact {
	VM_FACT_INCOMPLETE = 1 << 0,   /* being made, or forgotten: its definition says what to remove */
	VM_FACT_TEMPLATE = 1 << 1,     /* its images are only read: the linked clones' disks stand on them */
	VM_FACT_AUTOSTART = 1 << 2,    /* start it when the host boots */
	VM_FACT_REBOOTS = 1 << 3,      /* start it again when it is off. Part of the state file */
	VM_FACT_OFF_ASKED = 1 << 4,    /* somebody asked for this shutdown, so it stays off. Part of the state file */
	VM_FACT_SAVED_PAUSED = 1 << 5, /* start the managed save paused. Part of the state file */
	VM_FACT_RUN_MISSED = 1 << 6,   /* an earlier daemon started it and ended before it kept that */
	VM_FACT_ENDED_UNSEEN = 1 << 7, /* it ended while no daemon ran: its policy is still to be applied */
	VM_FACT_DUMP_DUE = 1 << 8,     /* dump its memory, by policy, when its job is over */
	VM_FACT_FALLS_ASLEEP = 1 << 10, /* it is being suspended or saved because it is idle. Part of the state file */
	VM_FACT_CRASH_DUMPED = 1 << 9, /* its memory is dumped, and its process is told to end */
};

/* The guest agent's port. */
struct vm_agent_port {
	uint8_t now;  /* enum vm_agent_state, as last heard */
	uint8_t told; /* the same, as events have it */
	struct loop_timer *timer; /* armed: there is more to tell then. NULL: never needed so far */
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
	struct {
		int status; /* -1: unknown or none yet */
		int signal; /* 0: none */
	} exit; /* of the last process */
	uint64_t run;		 /* counts the starts; the one under way included */
	uint64_t since_ns;	 /* realtime of the last change of state */
	struct vm_process *proc; /* NULL: none */
	unsigned facts;		 /* mask of enum vm_fact */
	struct vm_operation operation; /* the owner's */
	struct vm_start_op start;
	struct {
		unsigned phase; /* VM_PHASE_NONE: none */
		const char *reason, *detail; /* borrowed; detail NULL: as the process says */
	} asked; /* a phase that the daemon itself asked the process for */
	struct vm_stop_op stop;
	struct offline_process *offline;	 /* a process that works on its disks while it is off; NULL: none */
	struct vm_agent_port agent;
	struct {
		struct ratelimit reset, panicked, watchdog, io_error, needs_reset, agent;
	} event_limits; /* what a guest can have told as often as it likes */
	/* Parts of observers (api/vm/observer.h), which allocate and free them. */
	struct qmp *qmp; /* its own socket; NULL: it has none */
	struct schedule *schedule; /* NULL: none */
	struct schedule_past *schedule_past;
	struct dump_state *dump; /* the last one of its memory */
	struct restart *restart;
	struct shutdown *shutdown;
	struct idle *idle;
	struct forwards *forwards; /* sockets that it is woken by; NULL: none yet */
};

static inline bool vm_has(const struct vm *vm, unsigned facts)
{
	return vm->facts & facts;
}

static inline void vm_set(struct vm *vm, unsigned facts, bool on)
{
	vm->facts = on ? vm->facts | facts : vm->facts & ~facts;
}

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
/* Whether it sleeps, suspended or saved, because it was idle. */
bool vm_sleeps(const struct vm *vm);
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
 * done: exactly once, at once or from the loop. (vm_define.c) */
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

#endif
