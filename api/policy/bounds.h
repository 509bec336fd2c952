/* bounds: limits how much a VM may delay the host's start and shutdown. The VMs of definers other than root have bounds
 * that the admin sets by options of the daemon (struct daemon_limits). They apply when a setting is used, so a
 * definition keeps the definer's value. Threading: the daemon's loop. */
#ifndef CAIRN_API_POLICY_BOUNDS_H
#define CAIRN_API_POLICY_BOUNDS_H

#include <stdint.h>
#include <sys/types.h>

struct vm;

/* Return the definition's order, start_delay and shutdown.deadline within the bounds. */
uint32_t bounds_order(const struct vm *vm);
uint32_t bounds_start_delay_s(const struct vm *vm);
uint32_t bounds_deadline_s(const struct vm *vm);

/* Return the user whose VMs share bounds with this one: its definer; 0 for root and the daemon's own user. */
uid_t bounds_definer(const struct vm *vm);

#endif
