/* exec: the common part of the three ways to run a program in a guest: by cairn-agent, as a job of the daemon, and by
 * QEMU's guest agent. */
#ifndef CAIRN_TOOLS_VERBS_EXEC_H
#define CAIRN_TOOLS_VERBS_EXEC_H

#include "tools/cairn/cli.h"

struct guest_link;
struct run_root;

/* Exit codes for failures other than the program's own status, as in docker and timeout(1). */
enum exec_exit {
	EXEC_TIMEOUT = 124,
	EXEC_CAIRN = CLI_NO_STATUS,
	EXEC_NOT_EXECUTABLE = 126,
	EXEC_MISSING = 127,
	EXEC_SIGNAL = 128,
};

#define EXEC_USER_WORDS 4
/* Get the words that stand before the program so that it runs as the user of --user. Returns their number, 0 without
 * that option. */
size_t exec_user_words(struct cli *c, const char *words[EXEC_USER_WORDS]);
/* Collect the variables of --env as NAME=VALUE. As with docker, a NAME alone has the value of cairn's own environment,
 * and is left out if it has none there. vars: the strings live as long as the program.
 * Returns 0; a usage error's status. */
int exec_variables(struct cli *c, const char *vars[CLI_GIVEN_MAX], size_t *ret_n);

/* How a program ended, for a caller that ends its VM and tells its own failures apart from the program's. */
struct exec_outcome {
	const char *reason; /* of a status that is not the program's own, such as "timeout"; NULL: it is the program's */
	int signal;	    /* the signal that ended the program; 0: none */
	bool warm;	    /* the guest began from a saved state (run_warm.h) */
	struct err err;	    /* with a reason */
};

/* Run the program with cairn-agent (exec_agent.c).
 * root: of `cairn run`, with an environment, a user and a folder for the program; NULL: none.
 * limit_ns: 0: none.
 * ret: filled, and the second SIGINT or SIGTERM ends the session, with the status 128 and its number; NULL: the second
 * one kills the program.
 * Returns the exit status. */
int exec_by_agent(struct cli *c, const struct guest_link *link, const struct run_root *root, uint64_t limit_ns,
	struct exec_outcome *ret);
/* Let a job of the daemon run the program (exec_job.c), and print the job's id. */
int exec_as_job(struct cli *c, uint64_t limit_ns);

#endif
