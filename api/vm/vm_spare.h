/* vm_spare: processes made ahead, so that the first clone of a user's next fork need not wait until a process is
 * spawned, has loaded its program and is confined (vmm/spare.h). After a fork of one clone, the daemon makes one for
 * the clone's definer.
 *
 * A spare has the definer, the UUID (and thereby the control group) and the user id of its future VM. So no process
 * moves between groups or users, and each serves at most one VM. A spare ends when it was not needed for a minute,
 * when the program on disk changes, and with the daemon. A clone that finds no spare, or one that does not answer,
 * gets a process in the ordinary way.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_VM_SPARE_H
#define CAIRN_API_VM_VM_SPARE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct definition;
struct vm;
struct vm_host;
struct vm_observer;

/* At most so many on the host, and one for each user. */
#define VM_SPARES_MAX 4

/* The process of a spare that was taken. */
struct vm_spare_process {
	pid_t pid;  /* a child, which the caller reaps */
	int pidfd;  /* owned */
	int sock;   /* owned; for VM_MSG_SPARE */
	uid_t uid;  /* of the process; 0: the daemon's */
};

/* Make a spare soon for the definer of this definition, unless the definer has one or there are VM_SPARES_MAX. */
void vm_spare_make(struct vm_host *host, const struct definition *def);
/* Give a clone's new definition the UUID of its definer's spare. Returns whether there is one. The caller then calls
 * vm_spare_drop() when the clone has its process, or will not get one. */
bool vm_spare_reserve(struct vm_host *host, struct definition *def);
/* Take the process of the spare with the VM's UUID. Returns false if there is none, it has ended or is not ready, or
 * the program on disk is another one by now. */
bool vm_spare_take(struct vm *vm, struct vm_spare_process *ret);
/* sock: of a process that was taken. Whether it has answered VM_MSG_SPARE, so that it has the VM's files. */
bool vm_spare_answered(int sock);
/* Kill a process that was taken and has no other owner, and close its fds. It is reaped later. */
void vm_spare_process_end(struct vm_host *host, struct vm_spare_process *p);
/* End the spare with this UUID, if there is one. */
void vm_spare_drop(struct vm_host *host, const uint8_t uuid[16]);

/* Return whether a spare has the user id; the UUID. */
bool vm_spares_have_uid(const struct vm_host *host, uid_t uid);
bool vm_spares_have(const struct vm_host *host, const uint8_t uuid[16]);
/* End all spares, without waiting for them. */
void vm_spares_free(struct vm_host *host);

#endif
