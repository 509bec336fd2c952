/* multi_vm: run one command for many VMs, several at a time: named VMs, VMs that match a pattern ('web*'), or all. */
#ifndef CAIRN_TOOLS_MULTI_VM_H
#define CAIRN_TOOLS_MULTI_VM_H

#include "tools/cairn/cli.h"

/* Options of every verb that accepts several VMs. */
#define MULTI_VM_OPTIONS                                                                                \
	{ "all", NULL, "work on all VMs in a state that the verb accepts" },                                      \
	{ "parallel", "N", "work on up to N VMs at a time, 1 to 64 [8]" },                       \
	{ "dry-run", NULL, "show what the verb would do, and change nothing" }

struct multi_vm_act {
	const char *command, *fail, *done; /* in "Failed to <fail> domain" and "Domain '...' <done>" */
	/* Add the verb's options to the arguments of a call. NULL: none. */
	void (*add)(struct cli *c, struct json_object *args);
	/* Print details of the answer below the line of the VM. would: a dry run; the daemon is then called with
	 * "dry-run".
	 * NULL: no details. */
	void (*told)(struct json_object *answer, bool would);
	/* For a dry run: returns the data that a VM in the state `word` would lose; NULL: none. If this pointer is
	 * NULL, no VM loses anything. */
	const char *(*lost)(const struct cli *c, const char *word);
	bool job; /* the command starts a job; wait for it and use its result as the answer */
	/* An argument that may hold several words, separated by commas. The call is made with one word after the other
	 * until one succeeds. NULL: none. */
	const char *tries;
	/* The command may be refused because of another VM that it is to be run for, so run it again for the refused
	 * VMs while it has succeeded for others. */
	bool repeats;
};

struct multi_vm_target {
	char *name;
	char word[16], state[16]; /* the VM's state in vm-list, for programs and for people; set for a picked VM */
	bool picked; /* chosen by a pattern or --all: skipped if its state does not fit */
	bool done;
	struct json_object *args, *answer;
	int r;
	struct err e;
	uint64_t took_ns;
};

struct multi_vm {
	struct multi_vm_target *list; /* owned */
	size_t n;
	bool table; /* print a table, because VMs were picked */
	unsigned parallel;
};

/* Return whether the command line asks for several VMs or a dry run. For verbs that handle one VM themselves.
 * first: only the first positional names VMs. */
bool multi_vm_is_meant(const struct cli *c, bool first);
/* Choose the VMs that the command line names. Changes nothing.
 * Returns 0; an exit code after an error message. Call multi_vm_done() in either case. */
int multi_vm_pick(struct cli *c, struct multi_vm *ret_f);
void multi_vm_done(struct multi_vm *f);
/* Run the command for each VM, or show its effect (--dry-run), and print the outcomes in order. Returns the exit code
 * of the first VM that failed. */
int multi_vm_run(struct cli *c, struct multi_vm *f, const struct multi_vm_act *a);
/* Run the command for the VMs that the command line names. Returns an exit code. */
int multi_vm_do(struct cli *c, const struct multi_vm_act *a);

#endif
