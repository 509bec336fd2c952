/* Handler of vm-addresses: the guest's addresses, from its agent. */
#include "api/commands/command.h"
#include "api/definition/definition.h"
#include "api/vm/vm.h"
#include "api/vm/vm_process.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/shell_word.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

/* The agent may be freezing file systems; then it answers only after it has thawed them. */
#define ADDRESSES_TIMEOUT_NS (45 * 1000000000ULL)

static bool same_interface(const struct vm_address *a, const struct vm_address *b)
{
	return !strcmp(a->name, b->name) && a->has_mac == b->has_mac && !memcmp(a->mac, b->mac, sizeof(a->mac));
}

static bool is_own(const struct vm *vm, const struct vm_address *x)
{
	const struct definition *d = vm_live(vm);

	for (uint32_t i = 0; x->has_mac && i < d->ninterfaces; i++)
		if (!memcmp(d->interfaces[i].mac, x->mac, sizeof(x->mac)))
			return true;
	return false;
}

static struct json_object *interface_put(struct json_object *list, const struct vm *vm, const struct vm_address *x)
{
	struct json_object *o = json_object_new_object(), *addresses = json_object_new_array();
	char mac[DEFINITION_MAC_TEXT];

	js_put_str(o, "name", x->name);
	if (x->has_mac) {
		mac_print(x->mac, mac);
		js_put_str(o, "mac", mac);
	}
	js_put_bool(o, "own", is_own(vm, x));
	js_put(o, "addresses", addresses);
	json_object_array_add(list, o);
	return addresses;
}

static void address_put(struct json_object *list, const struct vm_address *x)
{
	bool six = x->family == VM_ADDRESS_IPV6;
	struct json_object *o;
	char text[INET6_ADDRSTRLEN];

	if ((!six && x->family != VM_ADDRESS_IPV4) || !inet_ntop(six ? AF_INET6 : AF_INET, x->bytes, text, sizeof(text)))
		return;
	o = json_object_new_object();
	js_put_str(o, "type", six ? "ipv6" : "ipv4");
	js_put_str(o, "address", text);
	js_put_int(o, "prefix", x->prefix);
	json_object_array_add(list, o);
}

static void addresses_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct call *c = opaque;
	struct json_object *o, *list, *of = NULL;

	if (r < 0) {
		call_fail(c, e);
		return;
	}
	o = json_object_new_object();
	list = json_object_new_array();
	for (uint32_t i = 0; i < a->addresses->n; i++) {
		const struct vm_address *x = &a->addresses->list[i];

		if (!of || !same_interface(x, x - 1))
			of = interface_put(list, c->vm, x);
		address_put(of, x);
	}
	js_put(o, "interfaces", list);
	if (a->addresses->cut)
		js_put_bool(o, "cut", true);
	call_return(c, o);
}

void command_vm_addresses(struct call *c)
{
	struct err e;

	if (c->vm->proc && vm_state_is_active(c->vm->state)) {
		vm_process_request(c->vm->proc, VM_MSG_ADDRESSES, NULL, 0, -1, ADDRESSES_TIMEOUT_NS, addresses_done, c);
		return;
	}
	err_set(&e, -EPERM, ERR_WRONG_STATE, "VM '%.200s' is %s, and its guest agent cannot be asked; next: cairn start %s",
		c->vm->def->name, vm_state_name(c->vm->state), shell_word(c->vm->def->name).s);
	call_fail(c, &e);
}
