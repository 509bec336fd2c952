/* exec: what its ways have in common: over cairn-agent, as a job of the daemon, and over QEMU's guest agent. */
#ifndef CAIRN_TOOLS_VERBS_EXEC_H
#define CAIRN_TOOLS_VERBS_EXEC_H

#include "tools/cairn/cli.h"

struct guest_link;

/* Exit codes for what is not the program's own status, as docker and timeout(1) have them. */
enum exec_exit {
	EXEC_TIMEOUT = 124,
	EXEC_CAIRN = 125,
	EXEC_NOT_EXECUTABLE = 126,
	EXEC_MISSING = 127,
	EXEC_SIGNAL = 128,
};

#define EXEC_USER_WORDS 4
/* Get the words that stand before the program so that it runs as the user of --user. Returns their number, 0 without
 * that option. */
size_t exec_user_words(struct cli *c, const char *words[EXEC_USER_WORDS]);

/* Run the program with cairn-agent (exec_agent.c).
 * limit_ns: 0: none. Returns the exit status. */
int exec_by_agent(struct cli *c, const struct guest_link *link, uint64_t limit_ns);
/* Let a job of the daemon run the program (exec_job.c), and print the job's id. */
int exec_as_job(struct cli *c, uint64_t limit_ns);

#endif
