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

struct err;
struct vm;
struct vm_host;
struct vm_observer;

extern const struct vm_observer forwards_observer;

/* Its state is another: has the sockets and listens, or lets go of them. */
void forwards_on_state_change(struct vm *vm);
/* It was taken back: from here on it is woken, as those are that this daemon has started. */
void forwards_taken_back(struct vm *vm);
/* It is about to be saved. From when its processes have answered on, who connects waits in the daemon's sockets, which call
 * the save off while it can be; afterwards the VM goes on with them. Returns false when nobody has to answer; else
 * the observers' forwards_held() comes, or never: a process may do as it likes. */
bool forwards_hold(struct vm *vm);
/* It is awake still: its processes take who waits. */
void forwards_release(struct vm *vm);
/* Of processes that live on. */
void forwards_processes_free(struct vm_host *host);

#endif
