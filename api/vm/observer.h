/* observer: hooks by which modules above vm.c, most of them in the folders above vm/, react to a VM's life cycle. Each
 * module has one table of hooks. api/daemon.c lists the tables in struct vm_host, in the order in which vm/ calls them.
 * A hook may be NULL.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_OBSERVER_H
#define CAIRN_API_VM_OBSERVER_H

#include "api/schema/vm_state.h"

#include <stdbool.h>

struct config;
struct err;
struct json_object;
struct vm;
struct vm_event;
struct vm_host;
struct vm_info;
struct vm_start_opts;

struct vm_observer {
	/* added: the VM is in the registry now; the observer allocates its members of struct vm. removed: the VM is
	 * being freed; the observer frees them. */
	void (*added)(struct vm *vm);
	void (*removed)(struct vm *vm);
	/* The VM's definition was replaced. */
	void (*redefined)(struct vm *vm);
	/* The clone has got the name and uuid of another VM, which has got a new name and uuid (api/jobs/promote.h).
	 * The users' settings for the uuid now apply to the clone. Their settings for the clone's former uuid end. */
	void (*promoted)(struct vm *clone, struct vm *other);

	/* Write and read the observer's members of state.json. Borrow `state`. */
	void (*state_put)(const struct vm *vm, struct json_object *state);
	void (*state_load)(struct vm *vm, struct json_object *state);
	/* vm_move() calls state_changed before it saves the new state, state_saved after that, and state_told after it
	 * emitted the events. vm_set_reason() calls state_saved alone; the state is unchanged then. */
	void (*state_changed)(struct vm *vm, enum vm_trigger t);
	void (*state_saved)(struct vm *vm);
	void (*state_told)(struct vm *vm);

	/* Hooks of a start, in the order of their calls. An error (-errno) from start_check, start_add or
	 * start_prepare fails the start. */
	int (*start_check)(const struct vm *vm, struct err *e);
	void (*start_asked)(struct vm *vm, const struct vm_start_opts *opts);
	/* Whether the observer already listens on the VM's forwards. */
	bool (*has_forwards)(const struct vm *vm);
	/* A port of the VM's forwards is in use. Returns true if the observer will call vm_start_resume() to retry. */
	bool (*start_retries)(struct vm *vm);
	/* Whether the start has to wait for something on the host. If so, the observer calls vm_starts_resume() when
	 * the starts may continue. */
	bool (*start_waits)(struct vm *vm);
	/* Add to the configuration for the VM process. */
	int (*start_add)(struct vm *vm, struct config *c, struct err *e);
	/* Prepare the host for the configured VM. Returns 0; 1: the observer will call ready() from the loop, unless
	 * the VM is removed before; -errno. With -EAGAIN from ready(), the start waits without its files until the
	 * observer calls vm_start_resume(); then it begins anew. */
	int (*start_prepare)(struct vm *vm, const struct config *c, void (*ready)(struct vm *vm, int r, const struct err *e),
		struct err *e);
	/* End the wait for ready() soon, since the start was called off. */
	void (*start_called_off)(struct vm *vm);
	void (*started)(struct vm *vm);
	void (*start_failed)(struct vm *vm);
	/* A revert has replaced the state of the running guest, so the guest does not know of earlier requests, such as
	 * a shutdown. The caller saves the VM's state. */
	void (*renewed)(struct vm *vm);

	/* The VM process has reported a phase. phase_seen is called before the state changes, phase_known after it and
	 * also for an adopted process. */
	void (*phase_seen)(struct vm *vm, const struct vm_event *ev);
	void (*phase_known)(struct vm *vm);
	/* Interface `at` of vm_live() was detached from the running VM; the definition still has it. */
	void (*interface_gone)(struct vm *vm, unsigned at);
	/* Another program had removed the rules of the taps on the network, or its bridge, which is there again. The
	 * VM has a process. */
	void (*ports_lost)(struct vm *vm, const char *network);
	/* A disk is not mirrored to a copy any more: the VM continues with the copy, or with the disk. */
	void (*copy_ended)(struct vm *vm, const char *disk);
	/* The VM process or the offline process reports progress of a job, by VM_EVENT_PROGRESS, _FORK_READY or
	 * _COPY_OUTPACED. */
	void (*progress)(struct vm *vm, const struct vm_event *ev);

	/* Hooks for the end of the VM process, in this order. process_gone: the process has ended. process_saved: the
	 * process reported that it saved the VM, and one observer moves the state. run_ended: the state has moved.
	 * end_waits: whether the calls that waited for the end wait on, until the observer calls vm_answer_gone().
	 * run_over: they were answered otherwise. A daemon that finds no process at its start calls process_saved, if
	 * the VM was saved, and then process_gone. */
	void (*process_gone)(struct vm *vm);
	void (*process_saved)(struct vm *vm);
	void (*run_ended)(struct vm *vm);
	bool (*end_waits)(struct vm *vm);
	void (*run_over)(struct vm *vm, bool was_active, bool rebooting);
	/* The process was killed, but has not ended, as when it waits for a disk. The hooks above follow if it ends. */
	void (*process_stuck)(struct vm *vm);
	/* A managed save is on stable storage or has failed. outcome: "saved" or the error. */
	void (*save_over)(struct vm *vm, const char *outcome);

	/* Hooks at the daemon's start. adopted: the VM's process answered, and the daemon adopted it. start_lost: the
	 * guest of the adopted process has not run, because the earlier daemon ended before it sent a configuration, or
	 * the process ended before. found_off: the
	 * daemon found no process, or cannot connect to it. */
	void (*adopted)(struct vm *vm, const struct vm_info *info);
	void (*start_lost)(struct vm *vm);
	void (*found_off)(struct vm *vm);

	/* A client connects to a forward of a VM that may be asleep.
	 * forward: the forward in words, for the VM's detail. done: called once if the observer begins to wake the VM
	 * in this call; otherwise never. */
	void (*client_waits)(struct vm *vm, const char *forward, void (*done)(void *opaque, int r, const struct err *e),
		void *opaque);
	/* The VM's cairn-slirp processes accept no more clients (forwards_hold()). */
	void (*forwards_held)(struct vm *vm);
	/* A job of the VM of that name has concluded; the VM may be gone. */
	void (*job_concluded)(struct vm_host *host, const char *name);
	/* The VM's job has concluded, and a dump waits for that (VM_FACT_DUMP_DUE). */
	void (*dump_due)(struct vm *vm);
	/* The list of pins has changed (pins.h), and is about to be stored. */
	void (*pins_changed)(struct vm_host *host);
};

#define vm_observers_each(o, host) \
	for (const struct vm_observer *const *o = (host)->observers; o && *o; o++)
/* Call a hook of all observers. */
#define vm_notify(vm, hook, ...) \
	do { \
		vm_observers_each(o_, (vm)->host) \
			if ((*o_)->hook) \
				(*o_)->hook((vm), ##__VA_ARGS__); \
	} while (0)
/* Call a hook of the observers in turn until one returns a value other than 0. Evaluates to that value, or 0. */
#define vm_ask(vm, hook, ...) \
	({ \
		int r_ = 0; \
		vm_observers_each(o_, (vm)->host) \
			if (!r_ && (*o_)->hook) \
				r_ = (*o_)->hook((vm), ##__VA_ARGS__); \
		r_; \
	})

#endif
