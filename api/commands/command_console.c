/* Handlers that connect a client to the guest: to a console, or to a port of vsock. */
#include "api/commands/command.h"
#include "api/vm/consoles.h"
#include "api/vm/vm.h"
#include "api/vm/vm_compat.h"
#include "api/vm/vm_process.h"
#include "api/wire/conn.h"
#include "api/wire/json.h"
#include "base/agent_frame.h"
#include "base/err.h"
#include "base/shell_word.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define REQUEST_TIMEOUT_NS (10 * 1000000000ULL)
#define VSOCK_TIMEOUT_NS (20 * 1000000000ULL) /* the VM's process waits 10 s for the guest */

/* ---- console ---- */

struct console_wait {
	struct call *call;
	int fd; /* the client's end of the console's socket pair */
};

static void console_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct console_wait *w = opaque;

	(void)a;
	if (r < 0) {
		close(w->fd);
		call_fail(w->call, e);
	} else {
		call_return_fd(w->call, NULL, w->fd);
	}
	free(w);
}

static uint8_t console_kind(const struct call *c)
{
	const char *kind = js_get_str(c->args, "kind");

	return kind && !strcmp(kind, "virtio") ? VM_CONSOLE_VIRTIO : VM_CONSOLE_SERIAL;
}

/* The client gets a socket to the VM's process, so console data never passes through the daemon. Returns the request's
 * context, and the process's end of the pair in *ret_fd; NULL: the call has failed. */
static struct console_wait *pair_make(struct call *c, int *ret_fd)
{
	struct console_wait *w;
	struct err e;
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
		err_set_errno(&e, -errno, "socket");
		call_fail(c, &e);
		return NULL;
	}
	w = must_alloc(malloc(sizeof(*w)));
	*w = (struct console_wait){ .call = c, .fd = pair[0] };
	*ret_fd = pair[1];
	return w;
}

void command_vm_console(struct call *c)
{
	struct vm_console body = { .kind = console_kind(c), .history = js_get_bool(c->args, "history", true) };
	int fd;
	struct console_wait *w = pair_make(c, &fd);
	size_t len;

	if (!w)
		return;
	len = consoles_give(c->vm, &c->who, &body);
	vm_process_request(c->vm->proc, VM_MSG_CONSOLE, &body, len, fd, REQUEST_TIMEOUT_NS, console_done, w);
	close(fd);
}

/* ---- vsock ---- */

int command_vsock_check(const struct call *c, int64_t port, struct err *e)
{
	const char *name = c->vm->def->name;

	if (port < 0 || port >= UINT32_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "port: a vsock port is a number from 0 to %u", UINT32_MAX - 1);
	if (!vm_live(c->vm)->vsock_cid)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED,
			"VM '%s' has no vsock device; set \"vsock\": true (cairn edit %s), shut the VM down and start it", name, shell_word(name).s);
	return vm_process_knows(c->vm->proc, VM_KNOWS_VSOCK) ? 0 : vm_compat_refuse(name, e);
}

static void vsock_connect(struct call *c, int64_t port, bool agent)
{
	struct vm_vsock body = { .port = (uint32_t)port, .agent = agent };
	struct console_wait *w = NULL;
	struct err e;
	int fd;

	if (command_vsock_check(c, port, &e) < 0)
		call_fail(c, &e);
	else
		w = pair_make(c, &fd);
	if (!w)
		return;
	consoles_give_vsock(c->vm, &c->who, &body);
	vm_process_request(c->vm->proc, VM_MSG_VSOCK, &body, sizeof(body), fd, VSOCK_TIMEOUT_NS, console_done, w);
	close(fd);
}

void command_vsock_connect(struct call *c)
{
	vsock_connect(c, js_get_int(c->args, "port", 0), false);
}

void command_agent_connect(struct call *c)
{
	vsock_connect(c, AGENT_PORT, true);
}
