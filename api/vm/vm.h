/* vm: one defined VM in the daemon: its definition, its state and its process. vm.c has the registry and the state,
 * vm_define.c changes definitions, vm_start.c starts and stops processes, vm_adopt.c adopts them, vm_life.c handles
 * their events and their end. Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_VM_H
#define CAIRN_API_VM_VM_H

#include "api/definition/definition.h"
#include "api/definition/vm_config.h"
#include "api/schema/vm_state.h"
#include "api/vm/operation.h"
#include "api/vm/vm_host.h"
#include "base/file.h"
#include "base/ratelimit.h"
#include "vmm/vm_msg.h"

struct call;
struct config;
struct dump_state;
struct forwards;
struct publish_restarts;
struct idle;
struct job_owner;
struct json_object;
struct loop_timer;
struct network_ports;
struct offline_process;
struct open_as;
struct qmp;
struct restart;
struct schedule;
struct schedule_past;
struct shutdown;
struct start_delay;
struct systemd_scope;
struct timetable;
struct cgroup_tree;
struct start_process;
struct vm_handover;
struct vm_process;
struct vm_space;
struct vm_trend;
struct vm_watch;

/* Files of the managed save in the VM's folder (api/jobs/save.h). */
#define SAVE_MANAGED "managed.save"
#define SAVE_MANAGED_TMP "managed.save.tmp"
#define SAVE_MANAGED_USED "managed.save.used"

#define VM_TEMPLATE_FILE "template.json" /* its presence makes the VM a template */
#define VM_TRANSIENT_FILE "transient.json" /* its presence makes the VM transient */

struct vm_start_opts {
	bool paused;
	bool eager;	 /* if the VM resumes a saved state: read all memory first */
	bool force_boot; /* drop a managed save */
	bool by_job;	 /* the VM's own job requests the start */
	bool again;	 /* this is an automatic restart after the VM's end */
	struct boot_choice boot; /* VMs with a firmware only */
	bool reset_nvram; /* replace the UEFI variables by their template */
	bool for_revert; /* the VM starts only to be reverted: without its job, it has no state to run */
	bool forked;	 /* state_fd is the source's saved state, for a clone (api/jobs/fork.h) */
	bool called_off; /* vm_start_call_off() */
	bool too_late;	 /* a stop of all VMs began while the start waited for something */
	bool waits; /* the process waits for other work (vm_start_limit()), so its start takes as long as that work */
	/* With forked: an eventfd that is readable when state_fd and the disks' images are written; the process builds
	 * the rest of its machine meanwhile. Borrowed until the start is over. 0: they are */
	int state_ready_fd;
	uint32_t pins_readable; /* with forked: as in vm_config */
	bool hint_hostname; /* with forked: the guest agent, if there is one, sets the clone's name as the host name */
	const char *woken_by; /* text that names the cause of waking the VM, for the state's detail; borrowed. NULL or
			       * "": not known */
	struct definition *definition; /* the VM runs with this one until it is off; taken. NULL: with its own */
	/* Holds the saved state to resume, in place of state_fd; taken. NULL: none */
	struct client_file *state_file;
	int state_fd;	 /* saved state to resume; taken. -1: none; a managed save is used unless force_boot */
	/* Called at once or from the loop. The VM may have ended again by then. May be NULL. */
	void (*done)(void *opaque, int r, const struct err *e);
	void *opaque;
};

/* The start that is under way or waits. */
struct vm_start_op {
	enum vm_operation_kind kind; /* VM_OP_NONE, or a VM_OP_START… */
	struct vm_start_opts opts;
	bool from_state;	 /* the VM resumes a saved state */
	bool sets_live;		 /* the start has set vm->live, and waits until state.json has it */
	bool holds_save;	 /* the start uses or drops the managed save, and renames it to SAVE_MANAGED_USED */
	struct open_as *opener;	 /* set in VM_OP_START_OPENS; else NULL */
	struct err *failed;	 /* the error of a failed start whose process has not ended; else NULL */
	struct vm *next;	 /* next VM in host->starts_wait */
	bool for_network;	 /* set in VM_OP_START_WAITS: it waits for an observer's start_waits */
	bool limits_memory;	 /* see vm_cgroup_may_limit_memory() */
	bool was_ahead;		 /* vm_start_ahead() has spawned the process, so it has no limit of memory yet */
	struct config *config;	 /* owned; set in VM_OP_START_PORTS; else NULL */
	unsigned prepared;	 /* observers that start_prepare has asked */
	struct start_process *ahead; /* the process that vm_start_ahead() has spawned and no start uses yet; NULL: none */
	/* Of vm_open_ahead(), until a start uses them: the operation that opens the files, and the files; owned.
	 * NULL: none */
	struct open_as *ahead_opener;
	struct config *ahead_files;
};

/* Flags that do not depend on the operations under way. Those marked "saved" are part of state.json. */
enum vm_fact {
	VM_FACT_INCOMPLETE = 1 << 0,   /* a job is creating the VM, or a failed creation is being undone */
	VM_FACT_TEMPLATE = 1 << 1,     /* the images are not written: linked clones may use them as backing files */
	VM_FACT_AUTOSTART = 1 << 2,    /* autostart is on for this VM (api/policy/autostart.c) */
	VM_FACT_REBOOTS = 1 << 3,      /* saved: a reboot was requested, so start the VM again if it powers off */
	VM_FACT_OFF_ASKED = 1 << 4,    /* saved: a user requested this shutdown, so the VM stays off */
	VM_FACT_SAVED_PAUSED = 1 << 5, /* saved: start the managed save paused */
	VM_FACT_RUN_MISSED = 1 << 6,   /* an earlier daemon started the VM and ended before it saved the state */
	VM_FACT_START_LOST = 1 << 22, /* an earlier daemon ended during the start, and no event has told that yet */
	VM_FACT_ENDED_UNSEEN = 1 << 7, /* the VM ended while no daemon ran; its restart policy is still to be applied */
	VM_FACT_DUMP_DUE = 1 << 8,     /* a memory dump by policy waits for the end of the VM's job (api/jobs/dump.h) */
	VM_FACT_FALLS_ASLEEP = 1 << 10, /* saved: the VM is being suspended or saved because it is idle */
	VM_FACT_CONTINUES = 1 << 11, /* saved: the VM is being saved to be started at once (restart-process) */
	VM_FACT_HANDS_OVER = 1 << 12, /* proc has reported VM_REASON_HANDOVER, and no other phase since */
	VM_FACT_FLATTEN_TRIED = 1 << 13, /* a pull by api/jobs/flatten.c runs, or failed in this run of the VM */
	VM_FACT_OWNS_HASH = 1 << 14, /* no other VM can have the socket of its old name (vm_socket_connect()) */
	VM_FACT_FOR_REVERT = 1 << 15, /* the VM was started for a revert, and is not reverted yet: a failure restarts nothing */
	VM_FACT_TRANSIENT = 1 << 16, /* the VM is undefined when it has ended (api/policy/transient.h), */
	VM_FACT_TRANSIENT_OVER = 1 << 17, /* and it has ended, or a daemon has found it off */
	VM_FACT_EPHEMERAL = 1 << 18, /* with VM_FACT_TRANSIENT: its images are removed, too */
	VM_FACT_UNDONE = 1 << 19, /* an earlier daemon did not complete the VM, and its removal has begun */
	VM_FACT_MEMORY_SET = 1 << 20, /* saved: a user has set the balloon's target in this run (api/policy/balancer.h), */
	VM_FACT_WEIGHT_SET = 1 << 21, /* saved: or another program the cpu.weight of its control group */
	VM_FACT_CRASH_DUMPED = 1 << 9, /* the dump of a crashed VM has ended, and its process has been asked to exit */
};

/* State of the guest agent and its port, for events. */
struct vm_agent_port {
	uint8_t now;  /* enum vm_agent_state: the last report */
	uint8_t told; /* enum vm_agent_state: as in the last event */
	struct loop_timer *timer; /* armed: emits the event that the rate limit delayed. NULL: not created yet */
};

/* Resources of the current run, which the definition may no longer say; 0: the VM is off. */
struct vm_run_size {
	uint64_t ram_bytes;
	uint32_t vcpus;
};

/* Resources besides the run that count for the quotas of the VM's definer. */
struct vm_counts {
	uint64_t made_bytes; /* saved: of the images that Cairn made for the VM, when they were made; at most INT64_MAX */
	uint64_t snapshots;  /* saved: their last known number */
	bool snapshot_coming;  /* a job is going to create one more, */
	bool snapshot_begun;   /* and the VM's process works on that */
};

struct vm_changed_disk {
	char id[16];		  /* saved */
	struct file_id image;	  /* saved: the disk's; its in_memory means nothing */
	struct file_id old_image; /* of the disk before; all 0: not known */
};

/* Disks that the definition has, and of which it is not known whether the process has them (api/vm/disk_change.h). */
struct vm_disk_change {
	struct definition *before; /* saved; owned: the definition without the change; NULL: there are no such disks */
	unsigned n;		   /* of disks */
	struct vm_changed_disk disks[VM_DISKS_MAX];
	bool answer_follows; /* the process will say whether it has the disks */
};

struct vm {
	struct vm_host *host;
	struct definition *def;	 /* the definition for the next start */
	struct definition *live; /* the definition that the process runs with, if it is not def; else NULL */
	uint64_t live_changes;	 /* number of changes of these two */
	struct vm_disk_change disk_change;
	enum vm_state state;
	enum vm_state told;	 /* the state in the VM's last event, while `is_told` */
	bool is_told;		 /* an event of an earlier daemon is the last one; only until the daemon has taken the VMs back */
	enum vm_reason reason;	 /* of the state; any number, if a process of a newer release reports it */
	char detail[VM_DETAIL_MAX];
	int64_t value;		 /* byte written to the debug exit port, pvpanic's bits, or the watchdog's action */
	int id;			 /* -1: not running */
	struct {
		int status; /* -1: killed by a signal, unknown, or none yet */
		int signal; /* 0: none */
	} exit; /* how the last process ended */
	uint8_t source[16];	 /* saved: uuid of the VM of which it is a live clone; all 0: it is none, or was promoted */
	uint8_t former[VM_FORMER_MAX][16]; /* saved: UUIDs that it had before promotions, the latest last; all 0: none */
	uint8_t group[16];	 /* saved: uuid that names its control group; all 0: its own (vm_cgroup.h) */
	uid_t uid;		 /* saved: user id of its last process (vm_uid.h); 0: the daemon's */
	uint64_t run;		 /* number of starts, including the one under way */
	struct file_id disk_ids[VM_DISKS_MAX]; /* of the disks' images at the last start by this daemon; */
	unsigned ndisk_ids;	 /* 0: none */
	uint64_t since_ns;	 /* realtime of the last change of state */
	struct vm_process *proc; /* NULL: none */
	struct vm_handover *handover; /* the handover under way; NULL: none, or an earlier daemon began it */
	unsigned facts;		 /* mask of enum vm_fact */
	struct vm_operation operation; /* the owner */
	struct vm_start_op start;
	struct {
		unsigned phase; /* VM_PHASE_NONE: none */
		enum vm_reason reason; /* VM_REASON_NONE: the daemon requested no phase */
		const char *detail; /* borrowed; NULL: as reported by the process */
	} asked; /* the phase that the daemon requested from the process */
	struct vm_stop_op stop;
	struct offline_process *offline;	 /* works on the disks while the VM is off; NULL: none */
	struct {
		struct json_object *images; /* paths of the images with a mark */
		uint64_t rate; /* of the last pull, in bytes/s; 0: no limit */
	} pull; /* see api/vm/pull_mark.h */
	struct json_object *commit; /* a commit that the process may have completed; NULL: none; see api/jobs/commit.c */
	struct json_object *former_files; /* saved; see api/vm/former_files.h */
	struct json_object *mirrors; /* likewise; see api/vm/mirrors.h */
	struct vm_agent_port agent;
	struct {
		bool given; /* users other than root, or clients of an earlier daemon, may have consoles */
		bool asked; /* VM_MSG_CONSOLE_END has no answer yet */
		bool due;   /* send VM_MSG_CONSOLE_END again */
		bool agents; /* the message without an answer is the second one, with VM_CONSOLE_END_AGENTS */
	} consoles; /* see api/vm/consoles.h */
	struct {
		struct ratelimit reset, panicked, watchdog, io_error, needs_reset, agent, powerdown, reset_delayed,
			link_lost, tray, balloon, recovered, frozen, unknown;
		unsigned powerdowns_asked; /* POWERDOWN events to come that clients have asked for */
	} event_limits; /* rate limits of events that a guest, or its process, can trigger at will */
	/* Members of the observers (api/vm/observer.h); each observer allocates and frees its own. */
	struct qmp *qmp; /* the VM's QMP socket; NULL: none */
	struct schedule *schedule; /* NULL: none */
	bool schedule_runs; /* a run is under way, of this schedule or of one that was removed */
	struct schedule_past *schedule_past;
	struct timetable *timetable; /* NULL: the VM has no schedules and no history of them */
	struct dump_state *dump; /* the last memory dump */
	struct restart *restart;
	struct shutdown *shutdown;
	struct start_delay *start_delay; /* api/policy/hook_ask.h; NULL: hooks have not delayed the start */
	struct idle *idle;
	struct vm_watch *watch; /* its thresholds (api/policy/thresholds.h); NULL: none yet */
	struct vm_pressure *pressure; /* api/policy/pressure.h; NULL: the VM runs without reclaim_on_pressure, or is off */
	struct vm_balance *balance; /* api/policy/balancer.h; NULL: the VM runs without bounds, or is off */
	struct vm_space *space; /* api/policy/vm_space.h; NULL: nothing is known of its images' space */
	struct vm_trend *trend; /* api/policy/trends.h; NULL: the VM has not run yet */
	int working_set_fd; /* the process's list of memory blocks (api/vm/working_set_file.h); -1: none */
	struct { /* counters of the VM's group when the last process was placed there */
		uint64_t kills; /* of a process of the group for lack of memory */
		uint64_t limits; /* of allocations that failed at the group's own limit */
	} memory_events;
	struct systemd_scope *scope; /* api/vm/systemd_scope.h; NULL: the definition asks for none, or no run needs it */
	const struct cgroup_tree *scope_tree; /* the folder of this scope; NULL: there is none */
	bool cgroup_room; /* the limit of memory may be raised (vm_cgroup_make_room()) */
	struct vm_run_size run_size; /* see api/vm/quota_use.h */
	struct vm_counts counts; /* likewise */
	int64_t snapshot_named_s; /* the time that is the name of the last snapshot which its user did not name */
	struct job_owner *job_owner; /* of the job that works on the VM; NULL: root, the daemon, or no job */
	struct network_ports *ports; /* rules for its taps (api/net/network_ports.h); NULL: none yet */
	struct gated *gated; /* its start as a clone of a fork (api/jobs/start_gate.h); NULL: none is under way */
	pid_t idle_pins_notified; /* the process that was told of idle pins (api/jobs/pin_release.h); 0: none */
	struct release_wait *release_waits; /* calls that wait for the guest to release a device or vCPUs */
	struct publish_restarts *publish_restarts; /* api/net/publish_restart.h; NULL: no such process has ended */
	struct forwards *forwards; /* sockets whose clients wake the VM; NULL: none yet */
};

static inline bool vm_has(const struct vm *vm, unsigned facts)
{
	return vm->facts & facts;
}

static inline void vm_set(struct vm *vm, unsigned facts, bool on)
{
	vm->facts = on ? vm->facts | facts : vm->facts & ~facts;
}

/* ---- the registry of VMs (vm.c) ---- */

/* Find a VM by name, else by uuid. NULL: none. */
struct vm *vm_find(struct vm_host *host, const char *name_or_uuid);
/* The same by name only, as a definition names its VM. */
struct vm *vm_find_name(struct vm_host *host, const char *name);
struct vm *vm_find_uuid(struct vm_host *host, const uint8_t uuid[16]);
/* Return the index of the first VM whose name sorts behind `after`; host->nvms if there is none. after: "": begin with
 * the first VM. */
size_t vm_index_after(struct vm_host *host, const char *after);
/* Add a VM that is off. def: taken on success. Returns 0; -ENOMEM. */
int vm_add(struct vm_host *host, struct definition *def, struct vm **ret_vm);
/* Rename the VM in the registry and its definition, but not on disk. The VM must be off and the name free. */
void vm_rename(struct vm *vm, const char *name);
/* Remove the VM from the registry and free it. It must be off and have no process. */
void vm_remove(struct vm *vm);
/* Free all VMs. Their processes keep running. */
void vm_free_all(struct vm_host *host);

/* Change the state as the transition table (vm_state.h) says, save it and emit events. Does nothing if the table has no
 * transition for the trigger, or if neither state nor reason would change. detail NULL: "". */
void vm_move(struct vm *vm, enum vm_trigger t, enum vm_reason reason, const char *detail,
	int64_t value);
/* Change the state's reason and detail, but not the state; save both and emit VM_STATE_CHANGE. */
void vm_set_reason(struct vm *vm, enum vm_reason reason, const char *detail);
/* Emit an event for this VM. data: taken; NULL: {}. */
void vm_emit(const struct vm *vm, enum event_id id, struct json_object *data);
/* Emit VM_STATE_CHANGE. from: the previous state. */
void vm_emit_change(struct vm *vm, enum vm_state from);
/* Note that the VM has had this UUID, which its states and snapshots have. Forgets the oldest of too many. */
void vm_former_add(struct vm *vm, const uint8_t uuid[16]);
/* Store the VM's state in state.json, written in the background. */
void vm_save(struct vm *vm);
/* The same, before something that the next daemon has to know of. w is done when the state is on stable storage, or
 * could not be stored; the caller sets done and loop. */
void vm_save_first(struct vm *vm, struct store_work *w);
/* Set the VM's state from the content of state.json. Keeps the state if that content is not valid.
 * Returns 0; -ENOTSUP: it has a definition with keys or words of a newer Cairn, and the caller removes the VM. */
int vm_load_state(struct vm *vm, struct json_object *state, struct err *e);

struct vm_defined {
	const struct definition *def; /* borrowed; on success completed with uuid and MAC addresses */
	struct vm *vm; /* NULL: VM_VALIDATE of a new VM */
	bool created; /* the VM did not exist before */
	bool outdates; /* the VM has a managed save, which may not fit the new definition */
	struct definition *to_run; /* VM_RUN: the checked definition; done() takes it */
};

/* Return the definition that the process runs with. If the VM was redefined before this daemon began, that definition
 * is unknown, and the function returns the new one. */
const struct definition *vm_live(const struct vm *vm);
/* Check that the VM has a process that a change can be made in. Returns 0; -EPERM with an error. */
int vm_live_check(const struct vm *vm, struct err *e);
/* Find a disk of the process by id or by the path of its image. Returns its index; -ENOENT with an error. */
int vm_live_disk(const struct vm *vm, const char *which, struct err *e);
/* Find an interface of the process by id or MAC address. Returns its index; -ENOENT with an error. */
int vm_live_interface(const struct vm *vm, const char *which, struct err *e);
/* Note that the VM's process has ended, or that its definition is the next start's. */
void vm_live_drop(struct vm *vm);
/* Note that the VM's process has changed to this definition, and store it. d: taken. */
void vm_live_replace(struct vm *vm, struct definition *d);
/* The same, after disks or interfaces have come or gone: the interfaces keep their slots. */
void vm_live_change(struct vm *vm, struct definition *d);
/* Return whether the VM is suspended or saved because it was idle. */
bool vm_sleeps(const struct vm *vm);
/* Return whether the VM runs and its next start will use a different definition. */
bool vm_is_pending(const struct vm *vm);
/* Let the definition that the process has be the running one, before the next start gets another. The caller then calls
 * vm_save_first(): if the daemon ends between the two, the next one does not take the new definition for that of the
 * process. */
void vm_live_keep(struct vm *vm);
/* The same, except for what a command can change in the running VM: links, limits and egress rules of interfaces,
 * interfaces that come and go, and disks. */
bool vm_machine_is_pending(const struct vm *vm);
/* Whether the VM runs with more, fewer or other disks than its next start will have, so that its guest cannot continue
 * there. */
bool vm_disks_are_pending(const struct vm *vm);
/* The same, by the ids of the disks only. */
bool vm_has_other_disks(const struct vm *vm);
/* The same for interfaces. */
bool vm_has_other_interfaces(const struct vm *vm);
/* Set the error of a command that cannot be carried out because of that. kind: disk or interface. effect: what would
 * happen, with the conjunction before it and a colon after it. Returns -EBUSY. */
int vm_refuse_other(const struct vm *vm, const char *kind, const char *effect, struct err *e);

enum vm_define_mode {
	VM_DEFINE,
	VM_REDEFINE, /* the VM must exist */
	VM_CREATE, /* the VM must not exist, and becomes transient */
	VM_VALIDATE, /* check only; store nothing */
	VM_RUN, /* check the definition with which the VM is to run until it is off; store only the pins of its disks */
};
/* Define a VM, or redefine the VM of that name (vm_define.c). Checks the files with the definition's rights. In the
 * first three modes, stores the definition and emits VM_DEFINED.
 * def: taken. was: the expected present definition in canonical JSON, taken; NULL: any.
 * by: the client's call, valid until done(); its role is checked again before the VM changes. NULL: the daemon acts,
 *     and def has its authors (authors_copy()).
 * done: called exactly once, at once or from the loop. */
void vm_define(struct vm_host *host, struct definition *def, enum vm_define_mode mode, const struct call *by,
	struct json_object *was, void (*done)(void *opaque, int r, const struct vm_defined *what, const struct err *e),
	void *opaque);

/* Store that the VM is transient, on stable storage before all later writes. ephemeral: the images that it has now go
 * with it. Returns 0; -errno. */
int vm_make_transient(struct vm *vm, bool ephemeral, struct err *e);
/* Return the paths of the images that go with an ephemeral VM and that it still has, owned by the caller. */
struct json_object *vm_ephemeral_images(const struct vm *vm);
/* Store that the VM is not transient. Returns 0; -errno. */
int vm_make_persistent(struct vm *vm, struct err *e);
/* Load what these two have stored. */
void vm_load_transient(struct vm *vm);

/* ---- start and stop (vm_start.c, vm_adopt.c, vm_life.c) ---- */

/* Check that the VM may start, and begin the start or queue it. opts->done() reports the result. opts: copied;
 * opts->state_fd, opts->state_file: taken, also on errors. */
void vm_start(struct vm *vm, const struct vm_start_opts *opts);
/* Check for errors that make a start fail at once: frozen images, quotas, ports of other VMs, the host's shutdown,
 * and the limits of the daemon. Returns 0; -errno. */
int vm_start_check(struct vm *vm, struct err *e);
/* Spawn the process of a VM that a job is going to start, so that the process loads its program meanwhile. It gets no
 * file of the VM but its log. If it cannot be spawned, or ends before the start, the start spawns one. */
void vm_start_ahead(struct vm *vm);
extern const struct vm_observer start_observer;
/* Open the files of a clone that a job is going to start, so that the start need not wait for that; not if the VM has
 * sockets as well. If they cannot be opened, the start tries again. */
void vm_open_ahead(struct vm *vm);
/* Close the files that vm_open_ahead() has opened for a start that did not come, or whose definition has changed. */
void vm_open_ahead_drop(struct vm *vm);
/* Kill the process of vm_start_ahead() that no start uses. Returns whether there is one; then the function of
 * vm_when_gone() is called after its end. */
bool vm_start_ahead_kill(struct vm *vm);
/* Note that a start has failed: the VM keeps its state, with this reason (VM_REASON_FAILED, or VM_REASON_DESTROYED if a
 * client ended the start). A VM that sleeps keeps the reason VM_REASON_IDLE. Saves both; the caller emits the event. */
void vm_note_failed_start(struct vm *vm, enum vm_reason reason, const char *why);
/* Continue a start in VM_OP_START_WAITS; else do nothing. */
void vm_start_resume(struct vm *vm);
/* Continue all starts that wait for an observer (start_waits), and that no observer keeps waiting any more. May free
 * VMs. */
void vm_starts_resume(struct vm_host *host);
/* Answer a failed start, because its process has ended or is stuck. Does nothing without a failed start. The answer may
 * free the VM. */
void vm_start_over(struct vm *vm);
/* Stop the VM's process without a guest shutdown, or end a start that has no process yet, which may free the VM.
 * call: answered when the process or that start has ended; fails if SIGKILL does not end the process. NULL: none. */
void vm_destroy(struct vm *vm, struct call *call);
/* End a start that is under way, as soon as that is possible. Does nothing without a start. */
void vm_start_call_off(struct vm *vm);
/* From now on, a start with opts.waits has as much time as any other. Does nothing without a start. */
void vm_start_limit(struct vm *vm);
/* Begin to adopt the process that an earlier daemon started, if it still runs; else set the state of a VM whose process
 * has ended. */
void vm_take_back(struct vm *vm);

#endif
