/* vm_state: the states of a VM in one table: every state, every transition, its trigger and the event that it
 * emits. Only this table decides which transitions are legal. */
#ifndef CAIRN_API_SCHEMA_VM_STATE_H
#define CAIRN_API_SCHEMA_VM_STATE_H

#include <stdbool.h>

struct err;

enum vm_state {
	VM_SHUT_OFF,
	VM_RUNNING,
	VM_PAUSED,
	VM_IN_SHUTDOWN, /* the power button was pressed and the guest still runs */
	VM_SAVED,	/* shut off, with a saved state */
	VM_CRASHED,	/* crashed; the process has ended */
	VM_PRESERVED,	/* crashed; the process is kept for inspection. Users see `crashed` */
	VM_STATE_COUNT,
};

/* Triggers of transitions. VM_ASK: a command's request. VM_SAW: the VM's process reports it, or the daemon observes
 * it. */
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
	VM_ASK_UNDEFINE,
	VM_ASK_RENAME,
	VM_ASK_PULL,
	VM_ASK_RESTART_PROCESS, /* ends with VM_SAW_SAVED and VM_ASK_START */
	VM_ASK_SAVE,	 /* ends with VM_SAW_SAVED or VM_SAW_ENDED */
	VM_ASK_DROP_SAVED,
	VM_ASK_FORK,
	VM_ASK_FORK_SNAPSHOT, /* live clones of a snapshot */
	VM_ASK_DUMP,
	VM_ASK_TEMPLATE,
	VM_ASK_SNAPSHOT, /* create, delete or change one */
	VM_ASK_REVERT,
	VM_ASK_COUNT,
	/* Observations are never refused. In a state without a row for the observation, it changes nothing. */
	VM_SAW_RUNNING = VM_ASK_COUNT,
	VM_SAW_PAUSED,
	VM_SAW_PRESERVED, /* crashed; the process is kept */
	VM_SAW_ENDED,	  /* the process ended in good order */
	VM_SAW_SAVED,	  /* the process ended after saving the state for the next start */
	VM_SAW_CRASHED,	  /* the process ended in another way */
	VM_SAW_TAKEN_BACK_RUNNING, /* adopted by a new daemon */
	VM_SAW_TAKEN_BACK_PAUSED,
	VM_TRIGGER_COUNT,
};

/* Event that a transition emits besides VM_STATE_CHANGE, which every transition emits. */
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

/* Return the row for a trigger in a state. NULL: a request is illegal there, an observation changes nothing. */
const struct vm_transition *vm_transition_find(enum vm_state state, enum vm_trigger trigger);

/* Check whether a request is legal in a state.
 * Returns 0; -EPERM with ERR_WRONG_STATE: the error names the VM's state, the states in which the request is legal,
 * and the command to type next. */
int vm_state_check(const char *name, enum vm_state state, enum vm_trigger trigger, struct err *e);

/* Return the state's name for users, as virsh shows it: "shut off", "running", … */
const char *vm_state_name(enum vm_state s);
/* Return the state as one word for programs and files: "shutoff", "in-shutdown", "preserved". */
const char *vm_state_word(enum vm_state s);
/* Return the state for its word; VM_STATE_COUNT if there is none. */
enum vm_state vm_state_from_word(const char *word);
/* Return the request's name: "start", "suspend", …; NULL for an observation. */
const char *vm_trigger_name(enum vm_trigger t);
/* Whether a VM in this state has a process. */
bool vm_state_is_active(enum vm_state s);
/* Print the words of all states in which the trigger is legal, separated by commas, for the schema. */
void vm_trigger_states(enum vm_trigger t, char *buf, unsigned size);

#endif
