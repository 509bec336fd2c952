/* stuck_process: examines the threads of another process in /proc, to find out whether it is stuck in a file system,
 * and which changes it can still make. A thread that waits in the kernel for a file system which does not answer may
 * be deaf to SIGKILL, and then keeps the process's files and locks.
 * Threading: any thread. */
#ifndef CAIRN_API_STORE_STUCK_PROCESS_H
#define CAIRN_API_STORE_STUCK_PROCESS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct err;

struct process_probe {
	unsigned free;	   /* threads that may still run the program's code */
	unsigned stuck;	   /* threads that SIGKILL waits for, or that are exiting, and that sleep without interruption */
	bool killed;	   /* SIGKILL waits for a thread, or each one is exiting: all will end, unless they are stuck */
	uint64_t switches; /* how often all of them gave the processor away: the same number twice means no progress */
	bool main_in_file_system; /* the main thread waits in a system call on a file, and none that waits for events */
	uint64_t main_switches;
};

/* Returns 0; -ESRCH: the process has ended; -errno. */
int process_probe(pid_t pid, struct process_probe *ret);
/* Returns true if the freezer of control groups version 1 has stopped the process: its threads sleep without
 * interruption, as those that wait for a disk. */
bool process_is_frozen(pid_t pid);
/* Get the time at which the process was started, in ticks since the host's boot. With it, a pid names one process only.
 * Returns 0; -errno. */
int process_start_time(pid_t pid, uint64_t *ret_ticks);
/* For a killed process of which all threads are stuck: check that no system call in which one waits can still change
 * files in the state folder. The name of the store's threads begins with `writer`.
 * Returns 0; -EBUSY: a call may, or nobody can tell; -errno. */
int process_check_calls(pid_t pid, const char *writer, struct err *e);
/* Kill the processes that the kernel kills when a daemon ends: its helper processes, with their process groups. They
 * have the daemon's name or one in `names`, each of at most 15 characters as in /proc/PID/comm, which ends with NULL;
 * other children stay. */
void process_kill_helpers(pid_t pid, const char *const *names);

#endif
