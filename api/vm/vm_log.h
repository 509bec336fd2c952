/* vm_log: the logs of VMs. A process that reads a guest's or an image's bytes writes its log to a pipe, because with an
 * open log file it could fill the file system. The process cairn-log (tools/log) reads the pipes of all VMs, and writes
 * the lines to the files "log" in the VMs' folders. It serves the pipes also when the daemon has ended; the next daemon
 * starts one of its own for the pipes that it makes.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_VM_LOG_H
#define CAIRN_API_VM_VM_LOG_H

/* A message to cairn-log over its fd VM_LOG_FD (base/channel.h): the name of the VM without a zero byte, and two fds:
 * the reading end of a pipe, and the VM's folder. */
#define VM_LOG_FD 3
#define VM_LOG_VERSION 1
#define VM_LOG_PIPE 1
#define VM_LOG_NAME_MAX 255

struct err;
struct vm;
struct vm_host;
struct vm_logs;

/* Start cairn-log, and start it again whenever it ends. The pipes of the VMs that this daemon has started outlive it.
 * host: only its loop is used at once. program: cairn-log's path. Both are borrowed.
 * Does not fail: without the process, VMs have no logs, and the daemon's log says so. */
struct vm_logs *vm_logs_new(const struct vm_host *host, const char *program);
/* The process ends with the last pipe. NULL allowed. */
void vm_logs_free(struct vm_logs *l);

/* Make a pipe for a process of the VM. A write to the pipe never waits.
 * Returns the pipe's end for writing, or /dev/null if there is no cairn-log, owned by the caller; -errno: the log file
 * cannot be made. */
int vm_log_open(const struct vm *vm, struct err *e);

/* Note that the VM `from`, which may run, is called `to` now. NULL allowed. */
void vm_log_rename(struct vm_logs *l, const char *from, const char *to);

#endif
