/* start_room: checks before a VM's start whether the host has the resources that the VM needs, and names those that are
 * short and the VMs that hold them.
 *
 * A problem that would make the start fail is an error, the same one that the start would report. A shortage of memory,
 * processors or disk space is only a warning: a guest takes memory and space as it uses them, so such a start works,
 * and may be intended. No file is opened, so locks of images by programs other than Cairn are found at the start only.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_POLICY_START_ROOM_H
#define CAIRN_API_POLICY_START_ROOM_H

#include <stdbool.h>

struct advice_list;
struct call;
struct disk_room;
struct err;
struct vm;

/* Do the checks of a start: quotas, limits of the daemon, ports, images and networks. Returns 0; -errno. */
int start_room_check(struct vm *vm, struct err *e);
/* Add the resources that are short. c: other VMs are named if this call's client may view them. low: a disk outside
 * of pools that is short (disk_room.h), which is not added if one in a pool is; NULL: none. vcpus: also compare the
 * vCPUs with the host's processors. */
void start_room_advise(const struct vm *vm, const struct call *c, bool vcpus, const struct disk_room *low, struct advice_list *ret);
/* Add only the disk outside of pools. */
void start_room_disk(const struct vm *vm, const struct call *c, const struct disk_room *low, struct advice_list *ret);

#endif
