/* run_command: run a program in the guest of a VM that exists only for it (`cairn run FILE -- COMMAND`). */
#ifndef CAIRN_TOOLS_VERBS_RUN_COMMAND_H
#define CAIRN_TOOLS_VERBS_RUN_COMMAND_H

#include <stdbool.h>
#include <stdint.h>

struct cli;
struct config;
struct err;
struct exec_outcome;
struct guest_link;

struct run_guest;
struct run_root;

/* Check that no option is given that needs a command. Returns 0; a usage error's status. */
int run_command_unwanted(struct cli *c);
/* Become the parent of the processes of a run whose parent ends, and return true: the first process of a container may
 * reap only its own children. Return false if a script that has become this process has left it other children, which
 * may never end. Call it before the first process of the run starts. */
bool run_reaps(void);
/* Make a folder for the socket that leads to the guest, and start a process that removes it when this one has ended,
 * for whatever reason. Returns 0 and *ret; -errno with a sentence. */
int run_guest_new(struct run_guest **ret, struct err *e);
/* Remove the folder, and wait until the run's processes have ended. g: may be NULL. */
void run_guest_free(struct run_guest *g);
static inline void run_guest_free_p(struct run_guest **g)
{
	run_guest_free(*g);
}

const char *run_guest_socket(const struct run_guest *g);
/* The standard streams of the VM's process. */
enum run_streams {
	RUN_STREAMS_NONE,
	RUN_STREAMS_ERROR, /* the console's output goes to standard error */
	RUN_STREAMS_OURS,  /* this process's own streams, with its terminal and the terminal's signals */
};

/* Fork. Returns 0 in a child that has to become the VM; 1 in this process; -errno with a sentence.
 * The VM is killed when this process ends, for whatever reason.
 * config: of the VM, with its files until the VM has ended; borrowed. */
int run_guest_fork(struct run_guest *g, const struct config *config, enum run_streams streams, struct err *e);
/* Wait for the end of a VM with the streams of this process, and kill it at the time limit. Signals are passed on to
 * it.
 * limit_ns: 0: none. ret: filled. Returns the exit status. */
int run_vm_wait(struct run_guest *g, uint64_t limit_ns, struct exec_outcome *ret);
/* Kill the VM, and wait for its end: another one may follow. */
void run_guest_stop(struct run_guest *g);
/* Returns a pidfd of the VM; borrowed. */
int run_guest_end_fd(const struct run_guest *g);
/* Connect to cairn-agent in the guest, as soon as it listens. link: with `renews`, renew the guest.
 * Returns 0 and link->sock; -ESRCH: the VM has ended; -ETIMEDOUT; -errno. */
int run_guest_connect(struct cli *c, const struct run_guest *g, uint64_t deadline_ns, struct guest_link *link);
/* Run the command in the guest, and end the VM.
 * link: to the agent; without a socket, wait for the agent.
 * writes: the VM has disks that it may write, so it is shut down, within 5 s after the time limit; otherwise it is
 * killed.
 * root: as for exec_by_agent(). deadline_ns: for all of it; UINT64_MAX: none. ret: filled. Returns the exit status. */
int run_command(struct cli *c, struct run_guest *g, const struct run_root *root, bool writes, struct guest_link *link, uint64_t deadline_ns,
	struct exec_outcome *ret);

#endif
