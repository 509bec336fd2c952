/* vm_state: the life of a VM in one table: every state, every transition, what asks for
 * it, the event that it emits. Nothing else decides what is legal. */
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
	VM_CRASHED,	/* no process any more */
	VM_PRESERVED,	/* crashed, its process kept for a look: `crashed` to a user */
	VM_STATE_COUNT,
};

/* What moves a VM. The first part is asked for by commands, the second reported by the
 * VM's process or seen by the daemon. */
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
	VM_ASK_SAVE,	 /* its end is seen: VM_SAW_SAVED or VM_SAW_ENDED */
	VM_ASK_DROP_SAVED,
	VM_ASK_FORK,
	VM_ASK_FORK_SNAPSHOT, /* of one of its snapshots */
	VM_ASK_DUMP,
	VM_ASK_TEMPLATE,
	VM_ASK_SNAPSHOT, /* make, delete, change one */
	VM_ASK_REVERT,
	VM_ASK_COUNT,
	/* Never refused: the table says where they lead, if anywhere. */
	VM_SAW_RUNNING = VM_ASK_COUNT,
	VM_SAW_PAUSED,
	VM_SAW_PRESERVED, /* crashed, process kept */
	VM_SAW_ENDED,	  /* process gone in good order */
	VM_SAW_SAVED,	  /* the same, and its state is kept for the next start */
	VM_SAW_CRASHED,	  /* process gone otherwise */
	VM_SAW_TAKEN_BACK_RUNNING, /* found alive by a new daemon */
	VM_SAW_TAKEN_BACK_PAUSED,
	VM_TRIGGER_COUNT,
};

/* Event that a transition emits, besides VM_STATE_CHANGE, which all emit. */
enum vm_state_event {
	VM_EMITS_NOTHING,
	VM_EMITS_STOP,
	VM_EMITS_RESUME,
	VM_EMITS_SHUTDOWN,
	VM_EMITS_SHUTDOWN_IF_PANICKED, /* of any other crash nothing but the change is told */
};

struct vm_transition {
	enum vm_trigger trigger;
	unsigned from; /* bit mask of 1 << enum vm_state */
	enum vm_state to;
	enum vm_state_event event;
};

/* The row for trigger in `state`; NULL: not legal (or, for what was seen, no change). */
const struct vm_transition *vm_transition_find(enum vm_state state, enum vm_trigger trigger);

/* May `trigger` be asked for? Returns 0, or -EPERM with ERR_WRONG_STATE: the present state,
 * the states where it would be legal, and what to type next. */
int vm_state_check(const char *name, enum vm_state state, enum vm_trigger trigger, struct err *e);

/* "shut off", "running", …; as users know them. */
const char *vm_state_name(enum vm_state s);
/* The same as one word for programs and files: "shutoff", "in-shutdown", "preserved". */
const char *vm_state_word(enum vm_state s);
/* VM_STATE_COUNT for a word that is none. */
enum vm_state vm_state_from_word(const char *word);
/* "start", "suspend", …; NULL for what is seen. */
const char *vm_trigger_name(enum vm_trigger t);
/* Has it a process? */
bool vm_state_is_active(enum vm_state s);
/* States in which `trigger` is legal, as words separated by commas, for the schema. */
void vm_trigger_states(enum vm_trigger t, char *buf, unsigned size);

#endif
