#include "tools/delegate/link.h"
#include "api/wire/client.h"
#include "api/wire/json.h"
#include "base/unix_socket.h"

#include <errno.h>
#include <string.h>

const struct channel_type link_messages[] = {
	[LINK_OPEN] = { .body_min = sizeof(struct link_open), .body_max = sizeof(struct link_open), .fds_max = 1, .known = true },
};

/* Run a command about the VM on a connection of its own. */
static int vm_ask(const char *daemon, const char *command, const char *vm, struct json_object **ret, int *ret_fd, struct err *e)
{
	struct json_object *args;
	struct client *client;
	int r = client_connect(daemon, &client, e);

	if (r < 0)
		return r;
	args = json_object_new_object();
	js_put_str(args, "vm", vm);
	r = client_execute(client, command, args, ret, ret_fd, e);
	client_free(client);
	return r;
}

static int console_connect(const char *daemon, const char *vm, int *ret_fd, struct err *e)
{
	int fd = -1, r = vm_ask(daemon, "vm-console", vm, NULL, &fd, e);

	if (!r && fd < 0)
		r = err_set(e, -EPROTO, ERR_GENERIC, "the daemon passed no console");
	if (!r)
		*ret_fd = fd;
	return r;
}

static int vnc_connect(const char *path, const char *vm, int *ret_fd, struct err *e)
{
	int fd = unix_connect(path, 0);

	if (fd == -EACCES)
		return err_set(e, fd, ERR_PERMISSION, "only the user who gave VM '%s' its \"vnc\" may see its screen", vm);
	if (fd == -ENOENT || fd == -ECONNREFUSED)
		return err_set(e, fd, ERR_WRONG_STATE, "VM '%s' shows no screen: it is off, or its cairn-vnc has ended", vm);
	if (fd < 0)
		return err_set_errno(e, fd, "%s", path);
	*ret_fd = fd;
	return 0;
}

static int screen_connect(const char *daemon, const char *vm, int *ret_fd, struct err *e)
{
	CLEANUP_JS struct json_object *answer = NULL;
	int r = vm_ask(daemon, "vm-dump-definition", vm, &answer, NULL, e);
	struct json_object *vnc = js_get(js_get(answer, "definition"), "vnc");

	if (r < 0)
		return r;
	if (!js_get_str(vnc, "path"))
		return err_set(e, -ENOENT, ERR_NOT_FOUND, vnc ? "VM '%s' has VNC at a TCP port; the page shows the screen of one with a socket, \"vnc\": true" :
			"VM '%s' has no VNC; set \"vnc\": true (cairn edit) for its next start", vm);
	return vnc_connect(js_get_str(vnc, "path"), vm, ret_fd, e);
}

int link_connect(const char *daemon, enum link_kind kind, const char *vm, int *ret_fd, struct err *e)
{
	switch (kind) {
	case LINK_DAEMON: return client_socket(daemon, ret_fd, e);
	case LINK_CONSOLE: return console_connect(daemon, vm, ret_fd, e);
	case LINK_SCREEN: return screen_connect(daemon, vm, ret_fd, e);
	}
	return err_set(e, -EINVAL, ERR_INVALID, "no such kind of connection");
}
