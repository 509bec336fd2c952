/* observer: how folders above vm/ take part in the life of VMs. Each has one table of hooks; api/daemon.c lists the tables
 * in struct vm_host, in the order in which they are called. A hook that is NULL is left out. */
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
	/* The VM is in the registry: allocate the observer's part of struct vm. removed: free it. */
	void (*added)(struct vm *vm);
	void (*removed)(struct vm *vm);
	/* The VM has another definition. */
	void (*redefined)(struct vm *vm);

	/* The observer's members of state.json. Borrow `state`. */
	void (*state_put)(const struct vm *vm, struct json_object *state);
	void (*state_load)(struct vm *vm, struct json_object *state);
	/* vm_move() calls these three: before the new state is saved, after that, and after its events. vm_say_reason()
	 * calls the second with the state as it was. */
	void (*state_changed)(struct vm *vm, enum vm_trigger t);
	void (*state_saved)(struct vm *vm);
	void (*state_told)(struct vm *vm);

	/* A start, in this order. start_check, start_add: 0; -errno with a sentence fails the start. */
	int (*start_check)(const struct vm *vm, struct err *e);
	void (*start_asked)(struct vm *vm, const struct vm_start_opts *opts);
	/* Whether the observer has the sockets of the VM's forwards already. */
	bool (*has_forwards)(const struct vm *vm);
	/* A port of the VM's forwards is taken. true: the observer calls vm_start_goes_on() in a moment. */
	bool (*start_retries)(struct vm *vm);
	/* Add to what the VM process is sent. */
	int (*start_add)(struct vm *vm, struct config *c, struct err *e);
	void (*started)(struct vm *vm);
	void (*start_failed)(struct vm *vm);

	/* The VM process reports a phase: before and after the state follows. phase_known is also called for an adopted
	 * process. */
	void (*phase_seen)(struct vm *vm, const struct vm_event *ev);
	void (*phase_known)(struct vm *vm);
	/* Work in the VM process or the offline process has come further. */
	void (*progress)(struct vm *vm, const struct vm_event *ev);

	/* The end of the VM process, in this order: it is gone; it said that it saved the VM, so one observer moves the
	 * state; the state has moved; calls that waited for the end were answered. */
	void (*process_gone)(struct vm *vm);
	void (*process_saved)(struct vm *vm);
	void (*run_ended)(struct vm *vm);
	void (*run_over)(struct vm *vm, bool was_active, bool rebooting);
	/* A managed save is on stable storage, or failed. outcome: "saved", or why not. */
	void (*save_over)(struct vm *vm, const char *outcome);

	/* At the daemon's start: the VM's process was adopted; it was adopted before an earlier daemon told it what to
	 * run; no process was found. */
	void (*adopted)(struct vm *vm, const struct vm_info *info);
	void (*start_lost)(struct vm *vm);
	void (*found_off)(struct vm *vm);

	/* A client connects to a forward of a VM that may sleep. forward: for the VM's detail; done: called once if the
	 * observer wakes the VM. */
	void (*client_waits)(struct vm *vm, const char *forward, void (*done)(void *opaque, int r, const struct err *e),
		void *opaque);
	/* The VM's user networks let nobody in any more (forwards_hold()). */
	void (*forwards_held)(struct vm *vm);
	/* A job of any VM has concluded. */
	void (*job_concluded)(struct vm_host *host);
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
/* Call a hook that returns something, until it is not 0: the result. */
#define vm_ask(vm, hook, ...) \
	({ \
		int r_ = 0; \
		vm_observers_each(o_, (vm)->host) \
			if (!r_ && (*o_)->hook) \
				r_ = (*o_)->hook((vm), ##__VA_ARGS__); \
		r_; \
	})

#endif
