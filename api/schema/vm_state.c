#include "api/schema/vm_state.h"
#include "base/err.h"
#include "base/shell_word.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define BIT(s) (1u << (s))
#define LIVE (BIT(VM_RUNNING) | BIT(VM_PAUSED) | BIT(VM_IN_SHUTDOWN))
#define ACTIVE (LIVE | BIT(VM_PRESERVED))
#define OFF (BIT(VM_SHUT_OFF) | BIT(VM_SAVED) | BIT(VM_CRASHED))

static const struct vm_transition transitions[] = {
	{ VM_ASK_START, OFF, VM_RUNNING, VM_EMITS_NOTHING },
	{ VM_ASK_START_PAUSED, OFF, VM_PAUSED, VM_EMITS_NOTHING },
	{ VM_ASK_RESUME, BIT(VM_PAUSED), VM_RUNNING, VM_EMITS_RESUME },
	{ VM_ASK_SUSPEND, BIT(VM_RUNNING) | BIT(VM_IN_SHUTDOWN), VM_PAUSED, VM_EMITS_STOP },
	{ VM_ASK_SHUTDOWN, BIT(VM_RUNNING) | BIT(VM_IN_SHUTDOWN), VM_IN_SHUTDOWN,
		VM_EMITS_NOTHING },
	{ VM_ASK_REBOOT, BIT(VM_RUNNING) | BIT(VM_IN_SHUTDOWN), VM_IN_SHUTDOWN, VM_EMITS_NOTHING },
	{ VM_ASK_RESET, BIT(VM_RUNNING) | BIT(VM_IN_SHUTDOWN), VM_RUNNING, VM_EMITS_NOTHING },
	{ VM_ASK_RESET, BIT(VM_PAUSED), VM_PAUSED, VM_EMITS_NOTHING },
	{ VM_ASK_DESTROY, ACTIVE, VM_SHUT_OFF, VM_EMITS_SHUTDOWN },
	{ VM_ASK_CONSOLE, BIT(VM_RUNNING), VM_RUNNING, VM_EMITS_NOTHING },
	{ VM_ASK_CONSOLE, BIT(VM_PAUSED), VM_PAUSED, VM_EMITS_NOTHING },
	{ VM_ASK_CONSOLE, BIT(VM_IN_SHUTDOWN), VM_IN_SHUTDOWN, VM_EMITS_NOTHING },
	{ VM_ASK_CONSOLE, BIT(VM_PRESERVED), VM_PRESERVED, VM_EMITS_NOTHING },
	{ VM_ASK_GUEST, BIT(VM_RUNNING), VM_RUNNING, VM_EMITS_NOTHING },
	{ VM_ASK_GUEST, BIT(VM_IN_SHUTDOWN), VM_IN_SHUTDOWN, VM_EMITS_NOTHING },
	{ VM_ASK_UNDEFINE, OFF, VM_SHUT_OFF, VM_EMITS_NOTHING },
	{ VM_ASK_RENAME, OFF, VM_SHUT_OFF, VM_EMITS_NOTHING },
	{ VM_ASK_RESTART_PROCESS, BIT(VM_RUNNING) | BIT(VM_PAUSED), VM_PAUSED, VM_EMITS_STOP },
	{ VM_ASK_SAVE, LIVE, VM_PAUSED, VM_EMITS_STOP },
	{ VM_ASK_DROP_SAVED, BIT(VM_SAVED), VM_SHUT_OFF, VM_EMITS_NOTHING },
	{ VM_ASK_FORK, BIT(VM_RUNNING), VM_RUNNING, VM_EMITS_NOTHING },
	{ VM_ASK_FORK, BIT(VM_PAUSED), VM_PAUSED, VM_EMITS_NOTHING },
	{ VM_ASK_FORK_SNAPSHOT, OFF, VM_SHUT_OFF, VM_EMITS_NOTHING },
	{ VM_ASK_FORK_SNAPSHOT, LIVE, VM_RUNNING, VM_EMITS_NOTHING },
	{ VM_ASK_DUMP, BIT(VM_RUNNING), VM_RUNNING, VM_EMITS_NOTHING },
	{ VM_ASK_DUMP, BIT(VM_PAUSED), VM_PAUSED, VM_EMITS_NOTHING },
	{ VM_ASK_DUMP, BIT(VM_IN_SHUTDOWN), VM_IN_SHUTDOWN, VM_EMITS_NOTHING },
	{ VM_ASK_DUMP, BIT(VM_PRESERVED), VM_PRESERVED, VM_EMITS_NOTHING },
	{ VM_ASK_RECLAIM, BIT(VM_RUNNING), VM_RUNNING, VM_EMITS_NOTHING },
	{ VM_ASK_RECLAIM, BIT(VM_PAUSED), VM_PAUSED, VM_EMITS_NOTHING },
	{ VM_ASK_RECLAIM, BIT(VM_IN_SHUTDOWN), VM_IN_SHUTDOWN, VM_EMITS_NOTHING },
	{ VM_ASK_DIRTY_RATE, BIT(VM_RUNNING), VM_RUNNING, VM_EMITS_NOTHING },
	{ VM_ASK_DIRTY_RATE, BIT(VM_PAUSED), VM_PAUSED, VM_EMITS_NOTHING },
	{ VM_ASK_DIRTY_RATE, BIT(VM_IN_SHUTDOWN), VM_IN_SHUTDOWN, VM_EMITS_NOTHING },
	{ VM_ASK_TEMPLATE, BIT(VM_SHUT_OFF) | BIT(VM_CRASHED), VM_SHUT_OFF, VM_EMITS_NOTHING },
	/* The next five rows say where a request is legal. vm_move() uses only the last one, when the offline process
	 * has reverted the disks; otherwise the VM_SAW rows set the state. */
	{ VM_ASK_PULL, OFF, VM_SHUT_OFF, VM_EMITS_NOTHING },
	{ VM_ASK_PULL, LIVE, VM_RUNNING, VM_EMITS_NOTHING },
	{ VM_ASK_SNAPSHOT, OFF, VM_SHUT_OFF, VM_EMITS_NOTHING },
	{ VM_ASK_SNAPSHOT, LIVE, VM_RUNNING, VM_EMITS_NOTHING },
	{ VM_ASK_REVERT, BIT(VM_SHUT_OFF) | BIT(VM_CRASHED) | ACTIVE, VM_SHUT_OFF, VM_EMITS_NOTHING },

	{ VM_SAW_RUNNING, BIT(VM_PAUSED), VM_RUNNING, VM_EMITS_RESUME },
	{ VM_SAW_RUNNING, BIT(VM_PRESERVED), VM_RUNNING, VM_EMITS_RESUME }, /* a reset lets the crashed VM run again */
	{ VM_SAW_PAUSED, BIT(VM_RUNNING) | BIT(VM_IN_SHUTDOWN), VM_PAUSED, VM_EMITS_STOP },
	{ VM_SAW_PAUSED, BIT(VM_PAUSED), VM_PAUSED, VM_EMITS_NOTHING }, /* the VM stays paused, for another reason */
	{ VM_SAW_PRESERVED, LIVE, VM_PRESERVED, VM_EMITS_STOP },
	{ VM_SAW_ENDED, ACTIVE, VM_SHUT_OFF, VM_EMITS_SHUTDOWN },
	{ VM_SAW_SAVED, ACTIVE | OFF, VM_SAVED, VM_EMITS_SHUTDOWN },
	{ VM_SAW_CRASHED, ACTIVE, VM_CRASHED, VM_EMITS_SHUTDOWN_IF_PANICKED },
	{ VM_SAW_NOT_REVERTED, BIT(VM_SHUT_OFF), VM_CRASHED, VM_EMITS_NOTHING },
	{ VM_SAW_TAKEN_BACK_RUNNING, OFF | LIVE, VM_RUNNING, VM_EMITS_NOTHING },
	{ VM_SAW_TAKEN_BACK_PAUSED, OFF | LIVE, VM_PAUSED, VM_EMITS_NOTHING },
};

/* For each state: vm_state_name(), vm_state_word(), and the command to suggest if a request is illegal in the state. */
static const struct {
	const char *name, *word, *next;
} states[VM_STATE_COUNT] = {
	[VM_SHUT_OFF] = { "shut off", "shutoff", "start" },
	[VM_RUNNING] = { "running", "running", "shutdown" },
	[VM_PAUSED] = { "paused", "paused", "resume" },
	[VM_IN_SHUTDOWN] = { "in shutdown", "in-shutdown", "wait --for shutoff" },
	[VM_SAVED] = { "saved", "saved", "start" },
	[VM_CRASHED] = { "crashed", "crashed", "start" },
	[VM_PRESERVED] = { "crashed", "preserved", "destroy" },
};

static const char *const trigger_names[VM_TRIGGER_COUNT] = {
	[VM_ASK_START] = "start",
	[VM_ASK_START_PAUSED] = "start",
	[VM_ASK_RESUME] = "resume",
	[VM_ASK_SUSPEND] = "suspend",
	[VM_ASK_SHUTDOWN] = "shutdown",
	[VM_ASK_REBOOT] = "reboot",
	[VM_ASK_RESET] = "reset",
	[VM_ASK_DESTROY] = "destroy",
	[VM_ASK_CONSOLE] = "a console or vsock connection",
	[VM_ASK_GUEST] = "a command for the guest",
	[VM_ASK_UNDEFINE] = "undefine",
	[VM_ASK_RENAME] = "domrename",
	[VM_ASK_PULL] = "blockpull or blockcommit",
	[VM_ASK_RESTART_PROCESS] = "restart-process",
	[VM_ASK_SAVE] = "save",
	[VM_ASK_DROP_SAVED] = "managedsave-remove",
	[VM_ASK_FORK] = "clone --live",
	[VM_ASK_FORK_SNAPSHOT] = "clone --live --snapshotname",
	[VM_ASK_DUMP] = "a dump or screenshot",
	[VM_ASK_RECLAIM] = "reclaim",
	[VM_ASK_DIRTY_RATE] = "domdirtyrate-calc",
	[VM_ASK_TEMPLATE] = "template",
	[VM_ASK_SNAPSHOT] = "a snapshot",
	[VM_ASK_REVERT] = "snapshot-revert",
};

const struct vm_transition *vm_transition_find(enum vm_state state, enum vm_trigger trigger)
{
	for (size_t i = 0; i < ARRAY_SIZE(transitions); i++)
		if (transitions[i].trigger == trigger && (transitions[i].from & BIT(state)))
			return &transitions[i];
	return NULL;
}

const char *vm_state_name(enum vm_state s)
{
	return (unsigned)s < VM_STATE_COUNT ? states[s].name : "unknown";
}

const char *vm_state_word(enum vm_state s)
{
	return (unsigned)s < VM_STATE_COUNT ? states[s].word : "unknown";
}

enum vm_state vm_state_from_word(const char *word)
{
	unsigned s = 0;

	while (s < VM_STATE_COUNT && strcmp(states[s].word, word))
		s++;
	return s;
}

const char *vm_trigger_name(enum vm_trigger t)
{
	return (unsigned)t < VM_TRIGGER_COUNT ? trigger_names[t] : NULL;
}

bool vm_state_is_active(enum vm_state s)
{
	return (unsigned)s < VM_STATE_COUNT && (ACTIVE & BIT(s));
}

static unsigned legal_mask(enum vm_trigger t)
{
	unsigned mask = 0;

	for (size_t i = 0; i < ARRAY_SIZE(transitions); i++)
		if (transitions[i].trigger == t)
			mask |= transitions[i].from;
	return mask;
}

void vm_trigger_states(enum vm_trigger t, char *buf, unsigned size)
{
	unsigned mask = legal_mask(t), n = 0;

	buf[0] = 0;
	for (unsigned s = 0; s < VM_STATE_COUNT && n < size; s++)
		if (mask & BIT(s))
			n += (unsigned)snprintf(buf + n, size - n, "%s%s", n ? "," : "",
				states[s].word);
}

/* Print the names of the states in the mask, such as "running, paused or in shutdown". VM_CRASHED and VM_PRESERVED have
 * the same name, which is printed once; VM_PRESERVED alone is "crashed and kept". */
static void name_states(unsigned mask, char *buf, size_t size)
{
	size_t n = 0;

	if ((mask & BIT(VM_CRASHED)) && (mask & BIT(VM_PRESERVED)))
		mask &= ~BIT(VM_PRESERVED);
	buf[0] = 0;
	for (unsigned s = 0; s < VM_STATE_COUNT && n < size; s++) {
		if (!(mask & BIT(s)))
			continue;
		mask &= ~BIT(s);
		n += (size_t)snprintf(buf + n, size - n, "%s%s%s", !n ? "" : mask ? ", " : " or ",
			states[s].name, s == VM_PRESERVED ? " and kept" : "");
	}
}

/* Return whether the VM already is in the requested state. Then the error suggests no other command. */
static bool is_so(enum vm_state state, enum vm_trigger trigger)
{
	switch (trigger) {
	case VM_ASK_START:
	case VM_ASK_START_PAUSED:
	case VM_ASK_RESUME:
		return state == VM_RUNNING;
	case VM_ASK_SUSPEND:
		return state == VM_PAUSED;
	case VM_ASK_SHUTDOWN:
	case VM_ASK_DESTROY:
		return OFF & BIT(state);
	default:
		return false;
	}
}

/* Return the command that leads from the state to one where the request is legal. */
static const char *next_step(enum vm_state state, enum vm_trigger trigger)
{
	bool starts = trigger == VM_ASK_START || trigger == VM_ASK_START_PAUSED;

	/* The VM has to be off, and a paused guest cannot shut down. */
	if (state == VM_PAUSED && !starts && (legal_mask(trigger) & BIT(VM_SHUT_OFF)))
		return "destroy";
	return states[state].next;
}

int vm_state_check(const char *name, enum vm_state state, enum vm_trigger trigger, struct err *e)
{
	char legal[160];

	if (vm_transition_find(state, trigger))
		return 0;
	if (is_so(state, trigger))
		return err_set(e, -EPERM, ERR_WRONG_STATE, "VM '%.255s' is %s already, and nothing was done", name,
			vm_state_name(state));
	name_states(legal_mask(trigger), legal, sizeof(legal));
	return err_set(e, -EPERM, ERR_WRONG_STATE,
		"VM '%.255s' is %s%s; %s works when it is %s. Next: cairn %s %s", name,
		vm_state_name(state), state == VM_PRESERVED ? " (its process is kept)" : "",
		vm_trigger_name(trigger), legal, next_step(state, trigger), shell_word(name).s);
}

int vm_state_refuse_kept(const char *name, enum vm_state state, const char *what, struct err *e)
{
	return state != VM_PRESERVED ? 0 : err_set(e, -EPERM, ERR_WRONG_STATE, "VM '%s' is crashed (its process is kept): cannot %s. Next: cairn "
		"destroy %s", name, what, shell_word(name).s);
}
