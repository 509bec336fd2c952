#include "api/store/store_unread.h"
#include "base/cleanup.h"
#include "base/err.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct unread_file {
	struct unread_file *next;
	char *name, *path, *sentence;
	enum store_unread_kind kind;
};

void store_unread_init(struct store_unread *u)
{
	pthread_mutex_init(&u->mutex, NULL);
	u->first = NULL;
}

static void file_free(struct unread_file *f)
{
	free(f->name);
	free(f->path);
	free(f->sentence);
	free(f);
}

void store_unread_done(struct store_unread *u)
{
	while (u->first) {
		struct unread_file *f = u->first;

		u->first = f->next;
		file_free(f);
	}
	pthread_mutex_destroy(&u->mutex);
}

static char *sentence_of(const char *path, enum store_unread_kind kind, const char *why)
{
	char *s = NULL;
	int n = -1;

	switch (kind) {
	case STORE_NEWER:
		n = asprintf(&s, "%s: %s; the file is not changed. Next: use the newer Cairn", path, why);
		break;
	case STORE_UNREADABLE: /* the reason names the path */
		n = asprintf(&s, "%s; the file is not changed. Next: repair its file system, or remove the file, and restart "
			"cairnd", why);
		break;
	case STORE_DAMAGED:
		n = asprintf(&s, "%s is damaged (%s) and was renamed to %s.damaged. Next: repair the file, give it back "
			"its name, and restart cairnd", path, why, path);
	}
	return n < 0 ? NULL : s;
}

static bool is_same(const char *a, const char *b)
{
	return a && b ? !strcmp(a, b) : a == b;
}

/* Remove the note for that path and name. A file may name several VMs, and so have several notes. */
static void path_drop(struct store_unread *u, const char *name, const char *path)
{
	struct unread_file **at = &u->first;

	while (*at && (strcmp((*at)->path, path) || !is_same((*at)->name, name)))
		at = &(*at)->next;
	if (*at) {
		struct unread_file *f = *at;

		*at = f->next;
		file_free(f);
	}
}

void store_unread_note(struct store_unread *u, const char *name, const char *path, enum store_unread_kind kind,
	const char *why)
{
	struct unread_file *f = calloc(1, sizeof(*f));

	if (!f)
		abort(); /* without the note the file would be overwritten */
	f->kind = kind;
	f->name = name ? strdup(name) : NULL;
	f->path = strdup(path);
	f->sentence = sentence_of(path, kind, why);
	if ((name && !f->name) || !f->path || !f->sentence)
		abort();
	LOCK_GUARD(&u->mutex);
	path_drop(u, name, path);
	f->next = u->first;
	u->first = f;
}

void store_unread_forget_damaged(struct store_unread *u, const char *name)
{
	LOCK_GUARD(&u->mutex);
	for (struct unread_file **at = &u->first; *at;) {
		struct unread_file *f = *at;

		if (f->kind != STORE_DAMAGED || !is_same(f->name, name)) {
			at = &f->next;
			continue;
		}
		*at = f->next;
		file_free(f);
	}
}

bool store_unread_knows(struct store_unread *u, const char *path)
{
	const struct unread_file *f = u->first;

	while (f && strcmp(f->path, path))
		f = f->next;
	return f;
}

int store_unread_check(struct store_unread *u, const char *name, const char *path, struct err *e)
{
	LOCK_GUARD(&u->mutex);
	for (const struct unread_file *f = u->first; f; f = f->next)
		if (f->kind != STORE_DAMAGED &&
			((path && !strcmp(f->path, path)) || (name && f->name && !strcmp(f->name, name))))
			return f->kind == STORE_NEWER ? err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "%s", f->sentence) :
							err_set(e, -EIO, ERR_IO, "%s", f->sentence);
	return 0;
}

static bool is_first_of_vm(const struct store_unread *u, const struct unread_file *f)
{
	const struct unread_file *before = u->first;

	while (before != f && (!before->name || strcmp(before->name, f->name)))
		before = before->next;
	return before == f;
}

void store_unread_each(struct store_unread *u, void (*found)(void *opaque, const char *name, const char *sentence),
	void *opaque)
{
	for (const struct unread_file *f = u->first; f; f = f->next)
		if (f->name && is_first_of_vm(u, f))
			found(opaque, f->name, f->sentence);
}
