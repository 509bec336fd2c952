/* waiting_call: a call that waits while cairn-slirp or cairn-publish changes an interface of a running VM. Threading:
 * the daemon's loop. */
#ifndef CAIRN_API_NET_WAITING_CALL_H
#define CAIRN_API_NET_WAITING_CALL_H

#include <stdint.h>

struct call;
struct err;
struct json_object;
struct vm;
struct vm_host;

struct waiting_call {
	struct call *call; /* NULL: answered, although the process may still make the change */
	struct vm_host *host;
	uint8_t uuid[16]; /* of the VM */
};

/* c: its vm is set. */
void waiting_call_begin(struct waiting_call *w, struct call *c);
/* Return the call's VM; NULL: a user has undefined it meanwhile. */
struct vm *waiting_call_vm(const struct waiting_call *w);
/* Answer the call, unless that was done. r: 0, and value is returned; -errno, and e is set. value: taken; NULL: {}. */
void waiting_call_answer(struct waiting_call *w, int r, struct json_object *value, const struct err *e);

#endif
