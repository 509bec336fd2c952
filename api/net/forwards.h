/* forwards: the daemon's part in interfaces of type user: their processes (usernet.h), whose ends it learns of, and the
 * ports of this host that lead to VMs.
 *
 * A VM that is idle is woken by who connects to one: of one that is suspended its process says so, to the next daemon,
 * too, as it listens in the run folder; of one that is saved
 * the daemon has the sockets, and hands them over, with who waits there, when the VM goes on. It has them from the
 * start on, if the VM's policy is to be saved: so nobody is refused while the VM falls asleep. */
#ifndef CAIRN_API_NET_FORWARDS_H
#define CAIRN_API_NET_FORWARDS_H

#include <stdbool.h>

struct config;
struct err;
struct vm;
struct vm_host;

/* Does a VM that runs, or that could be woken by one, listen where this one would? Returns 0 or -EBUSY. */
int forwards_check_free(const struct vm *vm, struct err *e);
/* Has the daemon the sockets that the VM's next start needs? */
bool forwards_are_held(const struct vm *vm);
/* A port is taken. By a process, perhaps, whose VM has just ended: it is about to end, too. Returns true when the start
 * goes on by itself (vm_start_goes_on()) in a moment; false: it has been tried for long enough. */
bool forwards_start_waits(struct vm *vm);
/* The processes of its interfaces of type user, into c. Returns 0; -errno with a sentence. */
int forwards_start(struct vm *vm, struct config *c, struct err *e);
/* Its process was not even begun: those of its interfaces end by themselves, or are killed in a moment. */
void forwards_processes_end(const struct vm *vm);
/* Its state is another: has the sockets and listens, or lets go of them. */
void forwards_on_state_change(struct vm *vm);
/* So is its definition. */
void forwards_redefined(struct vm *vm);
/* It is no more, or the daemon ends. */
void forwards_free(struct vm *vm);
/* It was taken back: from here on it is woken, as those are that this daemon has started. */
void forwards_taken_back(struct vm *vm);
/* Its process has ended, or was found ended: those of its interfaces, whoever started them, are killed unless they end soon. */
void forwards_ended(struct vm *vm);
/* It is about to be saved. From when its processes have answered on, who connects waits in the daemon's sockets, which call
 * the save off while it can be; afterwards the VM goes on with them. Returns false when nobody has to answer; else
 * idle_held() comes, or never: a process may do as it likes. */
bool forwards_hold(struct vm *vm);
/* It is awake still: its processes take who waits. */
void forwards_release(struct vm *vm);
/* Of processes that live on. */
void forwards_processes_free(struct vm_host *host);

#endif
