/* systemd_scope: a scope of systemd for each VM whose definition has "systemd_scope": true, and its registration with
 * systemd-machined. The VM's control group is in the scope then, with the same limits as in the daemon's tree.
 *
 * D-Bus may hang, so a process asks, cairn-scope (tools/scope), which then keeps the scope until the VM has ended: the
 * start waits for the scope, but at most 10 s, and continues without one. The registration needs the process id, so it
 * follows the start. If machined does not answer, cairn-scope tries once more: the first call may start machined. After
 * systemd has not answered, no VM asks it for a minute.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_SYSTEMD_SCOPE_H
#define CAIRN_API_VM_SYSTEMD_SCOPE_H

struct json_object;
struct vm;
struct vm_host;
struct vm_observer;

extern const struct vm_observer systemd_scope_observer;

/* Return why the VM's run lacks a scope or its registration although its definition asks for them; NULL: nothing
 * lacks. */
const char *systemd_scope_lack(const struct vm *vm);
/* Return {"unit", "machine", "lack"} without the members that do not apply; the caller owns it. NULL: the definition
 * of the run asks for none. */
struct json_object *systemd_scope_to_json(const struct vm *vm);

/* Free all data when the daemon ends. VMs keep their scopes. */
void systemd_scopes_free(struct vm_host *host);

#endif
