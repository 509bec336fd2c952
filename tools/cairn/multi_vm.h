/* fan: one command for many VMs: those that are named, those that fit a pattern ('web*'), or all;
 * some at a time. */
#ifndef CAIRN_TOOLS_FAN_H
#define CAIRN_TOOLS_FAN_H

#include "tools/cairn/cli.h"

/* Options of every verb that does so; the table of verbs names them. */
#define FAN_OPTIONS                                                                                \
	{ "all", NULL, "work on all VMs in a state that the verb accepts" },                                      \
	{ "parallel", "N", "work on up to N VMs at a time, 1 to 64 [8]" },                       \
	{ "dry-run", NULL, "show what the verb would do, and change nothing" }

struct multi_vm_act {
	const char *command, *fail, *done; /* "Failed to <fail> domain", "Domain '…' <done>" */
	/* Adds what the options say to a call's arguments; NULL: nothing to add. */
	void (*add)(struct cli *c, struct json_object *args);
	/* More to say about what was answered, below its line. would: with --dry-run, whose question then goes
	 * to the daemon, too, as "dry-run". NULL: nothing. */
	void (*told)(struct json_object *answer, bool would);
	/* With --dry-run: what a VM in that state would lose, if that is not plain; NULL: nothing. */
	const char *(*lost)(const struct cli *c, const char *word);
};

struct multi_vm_target {
	char *name;
	char word[16], state[16]; /* of one that was picked */
	bool picked; /* by a pattern or by --all: passed over when its state does not fit */
	bool done;
	struct json_object *args, *answer;
	int r;
	struct err e;
	uint64_t took_ns;
};

struct multi_vm {
	struct multi_vm_target *list; /* owned */
	size_t n;
	bool table; /* some were picked: what became of each is told in a table */
	unsigned parallel;
	bool jobs; /* for whoever picked: the command begins one, whose end is waited for; its result is the answer */
	/* For them as well: an argument that may be words with commas. The call is made with one after the other until it
	 * goes. NULL: none. */
	const char *tries;
};

/* Is it for more than one VM that is named, or a dry run? For verbs that have a way of their own for one. first: only
 * the first word names VMs. */
bool multi_vm_is_meant(const struct cli *c, bool first);
/* Whom the command line means. Nothing is done yet. Returns 0, or an exit code, having said why;
 * multi_vm_done() either way. */
int multi_vm_pick(struct cli *c, struct multi_vm *ret_f);
void multi_vm_done(struct multi_vm *f);
/* Does it, or with --dry-run says what it would do. Prints what became of each, in order. Returns
 * the exit code of the first that failed. */
int multi_vm_run(struct cli *c, struct multi_vm *f, const struct multi_vm_act *a);

#endif
