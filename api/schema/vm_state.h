/* vm_state: the states of a VM, and one table of their transitions: trigger, legal states, next state and event. (An
 * operation under way excludes further requests: api/vm/operation.h.) Threading: any thread; the table is constant. */
#ifndef CAIRN_API_SCHEMA_VM_STATE_H
#define CAIRN_API_SCHEMA_VM_STATE_H

#include <stdbool.h>

struct err;

enum vm_state {
	VM_SHUT_OFF,
	VM_RUNNING,
	VM_PAUSED,
	VM_IN_SHUTDOWN, /* a shutdown or a reboot was requested, and the guest still runs */
	VM_SAVED,	/* shut off, with a saved state */
	VM_CRASHED,	/* crashed; the process has ended */
	VM_PRESERVED,	/* crashed; the process is kept for inspection. Users see `crashed` */
	VM_STATE_COUNT,
};

/* Triggers of transitions. VM_ASK: a request, by a command, a policy or (VM_ASK_RESET) the guest. VM_SAW: the VM's
 * process reports it, or the daemon observes it. */
enum vm_trigger {
	VM_ASK_START,
	VM_ASK_START_PAUSED,
	VM_ASK_RESUME,
	VM_ASK_SUSPEND,
	VM_ASK_SHUTDOWN,
	VM_ASK_REBOOT,
	VM_ASK_RESET,
	VM_ASK_DESTROY,
	VM_ASK_CONSOLE,
	VM_ASK_GUEST,
	VM_ASK_UNDEFINE,
	VM_ASK_RENAME,
	VM_ASK_PULL,
	VM_ASK_RESTART_PROCESS, /* without a handover: on success, VM_SAW_SAVED and then a start follow */
	VM_ASK_SAVE,	 /* on success, VM_SAW_SAVED (a managed save) or VM_SAW_ENDED follows */
	VM_ASK_DROP_SAVED,
	VM_ASK_FORK,
	VM_ASK_FORK_SNAPSHOT, /* live clones of a snapshot */
	VM_ASK_DUMP,
	VM_ASK_RECLAIM,
	VM_ASK_DIRTY_RATE,
	VM_ASK_TEMPLATE,
	VM_ASK_SNAPSHOT, /* create, delete or change a snapshot */
	VM_ASK_REVERT,
	VM_ASK_COUNT,
	/* Observations are never refused. In a state without a row for the observation, it changes nothing. */
	VM_SAW_RUNNING = VM_ASK_COUNT,
	VM_SAW_PAUSED,
	VM_SAW_PRESERVED, /* crashed; the process is kept */
	VM_SAW_ENDED,	  /* the VM ended in an orderly way, such as a shutdown of the guest */
	VM_SAW_SAVED,	  /* the VM has a managed save, and its process has ended */
	VM_SAW_CRASHED,	  /* the process ended in another way */
	/* a new daemon adopted the process or cannot query it, or learned of a start that state.json lacks */
	VM_SAW_TAKEN_BACK_RUNNING,
	VM_SAW_TAKEN_BACK_PAUSED,
	VM_SAW_NOT_REVERTED, /* a crashed VM, whose process was started only for a revert, was not reverted */
	VM_TRIGGER_COUNT,
};

/* Event that vm_move() (api/vm/vm.h) emits for a transition, besides VM_STATE_CHANGE. */
enum vm_state_event {
	VM_EMITS_NOTHING,
	VM_EMITS_STOP,
	VM_EMITS_RESUME,
	VM_EMITS_SHUTDOWN,
	VM_EMITS_SHUTDOWN_IF_PANICKED, /* SHUTDOWN after a guest panic, nothing after other crashes */
};

struct vm_transition {
	enum vm_trigger trigger;
	unsigned from; /* bit mask of 1 << enum vm_state */
	enum vm_state to;
	enum vm_state_event event;
};

/* Return the row for a trigger in a state. NULL: in this state, the request is illegal, or the observation changes
 * nothing. */
const struct vm_transition *vm_transition_find(enum vm_state state, enum vm_trigger trigger);

/* Check whether a request is legal in a state.
 * Returns 0; -EPERM with ERR_WRONG_STATE: the error names the VM's state. Unless the VM already is as requested, the
 * error also names the states in which the request is legal, and the command to type next. */
int vm_state_check(const char *name, enum vm_state state, enum vm_trigger trigger, struct err *e);

/* Refuse a VM whose crashed process is kept: shutting it down, resuming it and taking a snapshot are illegal then.
 * what: such as "clone it". Returns 0; -EPERM with a sentence. */
int vm_state_refuse_kept(const char *name, enum vm_state state, const char *what, struct err *e);

/* Return the state's name for users: "shut off", "running", … */
const char *vm_state_name(enum vm_state s);
/* Return the state as one word for programs and files: "shutoff", "in-shutdown", "preserved". */
const char *vm_state_word(enum vm_state s);
/* Return the state for its word; VM_STATE_COUNT if there is none. */
enum vm_state vm_state_from_word(const char *word);
/* Return the name of the request's command, for errors: "start", "suspend", …; NULL for an observation. */
const char *vm_trigger_name(enum vm_trigger t);
/* Return whether a VM in this state has a process. */
bool vm_state_is_active(enum vm_state s);
/* Print the words of all states in which the trigger is legal, separated by commas, for the schema. */
void vm_trigger_states(enum vm_trigger t, char *buf, unsigned size);

#endif
