/* conn_files: the files that a client has stored by name (QEMU's getfd). */
#include "api/wire/conn_internal.h"
#include "base/err.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILES_MAX 16

struct conn_file {
	char name[64]; /* "": free */
	struct client_file *file;
};

void conn_files_free(struct conn *c)
{
	for (unsigned i = 0; c->files && i < FILES_MAX; i++)
		if (c->files[i].name[0])
			c->server->ops->file_free(c->files[i].file);
	free(c->files);
}

struct client_file *conn_file_take(struct conn *c, const char *name)
{
	for (unsigned i = 0; c->files && *name && i < FILES_MAX; i++) {
		if (strcmp(c->files[i].name, name))
			continue;
		c->files[i].name[0] = 0;
		return c->files[i].file;
	}
	return NULL;
}

int conn_file_store(struct conn *c, const char *name, struct client_file *file, struct err *e)
{
	c->server->ops->file_free(conn_file_take(c, name));
	if (!*name || strlen(name) >= sizeof(c->files->name) || (*name >= '0' && *name <= '9'))
		return err_set(e, -EINVAL, ERR_INVALID, "fdname: must have 1 to %zu bytes and not begin with a digit",
			sizeof(c->files->name) - 1);
	if (!c->files && !(c->files = calloc(FILES_MAX, sizeof(*c->files))))
		return err_set_errno(e, -ENOMEM, "getfd");
	for (unsigned i = 0; i < FILES_MAX; i++) {
		if (c->files[i].name[0])
			continue;
		snprintf(c->files[i].name, sizeof(c->files[i].name), "%s", name);
		c->files[i].file = file;
		return 0;
	}
	return err_set(e, -EMFILE, ERR_BUSY, "getfd has stored %d fds, the maximum; close one with closefd", FILES_MAX);
}
