#include "tools/root/tree.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>

#define DEPTH_MAX 1024
#define LINKS_MAX 40 /* symbolic links on the way to a name, as in Linux */
/* Parts of paths that all entries may lead through. A symbolic link may have 2000 parts, so that an entry behind 39 of
 * them takes 5 ms. */
#define STEPS_MAX 4000000
#define STEPS_PER_ENTRY 64
#define NO_ENTRY UINT32_MAX
#define WHITEOUT ".wh."
#define WHITEOUT_OPAQUE ".wh..wh..opq"
#define WHITEOUT_META ".wh..wh." /* files of aufs, and the opaque whiteout */

/* A file, which may have several names. */
struct file {
	uint32_t entry;
	uint32_t names;
	char *symlink; /* target; NULL: no symbolic link */
	struct tree_name *first; /* since tree_finish() */
};

enum name_kind { NAME_GONE, NAME_FOLDER, NAME_FILE };

/* The first two members are the key. */
struct tree_name {
	struct tree_name *parent; /* NULL: the root */
	const char *text;
	enum name_kind kind;
	bool listed; /* in the parent's list */
	uint16_t depth;
	unsigned layer, purged; /* last layer with an entry; last layer that purged the folder, from 1 on; 0: none */
	uint32_t entry; /* of a folder */
	uint32_t live;	/* names in a folder */
	struct file *file;
	struct tree_name *children, *sibling, *older, *link;
};

/* The place of an entry's content. */
struct made {
	struct tree_name *folder;
	struct file *file;
};

struct tree {
	struct tree_name root;
	void *names; /* for tsearch() */
	struct tree_name *newest;
	struct made *made;
	uint32_t nentries, entries_max, room;
	uint64_t steps; /* see STEPS_MAX */
};

struct tree *tree_new(uint32_t entries_max)
{
	struct tree *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	t->entries_max = entries_max;
	t->root.kind = NAME_FOLDER;
	t->root.text = "";
	t->root.entry = NO_ENTRY;
	return t;
}

static int no_memory(struct err *e)
{
	return err_set(e, -ENOMEM, ERR_HOST, "not enough memory for the names of the image");
}

/* ---- names ---- */

static int name_compare(const void *a, const void *b)
{
	const struct tree_name *x = a, *y = b;

	if (x->parent != y->parent)
		return x->parent < y->parent ? -1 : 1;
	return strcmp(x->text, y->text);
}

/* Returns the name, which may be gone; NULL: it never was. */
static struct tree_name *name_find(struct tree *t, struct tree_name *folder, const char *text)
{
	struct tree_name key = { .parent = folder, .text = text };
	struct tree_name **at = tfind(&key, &t->names, name_compare);

	return at ? *at : NULL;
}

/* Returns the name, new ones without content; NULL: no memory. */
static struct tree_name *name_make(struct tree *t, struct tree_name *folder, const char *text)
{
	struct tree_name *n = name_find(t, folder, text);
	size_t len = strlen(text) + 1;

	if (!n) {
		n = calloc(1, sizeof(*n) + len);
		if (!n)
			return NULL;
		n->text = memcpy(n + 1, text, len);
		n->parent = folder;
		n->depth = (uint16_t)(folder->depth + 1);
		if (!tsearch(n, &t->names, name_compare)) {
			free(n);
			return NULL;
		}
		n->older = t->newest;
		t->newest = n;
	}
	if (!n->listed) {
		n->sibling = folder->children;
		folder->children = n;
		n->listed = true;
	}
	return n;
}

static void name_set(struct tree_name *n, enum name_kind kind, struct file *file)
{
	if (n->kind == NAME_GONE && kind != NAME_GONE)
		n->parent->live++;
	if (n->kind != NAME_GONE && kind == NAME_GONE)
		n->parent->live--;
	if (n->file)
		n->file->names--;
	if (file)
		file->names++;
	n->file = file;
	n->kind = kind;
	n->entry = NO_ENTRY;
}

/* Take the removed names off the folder's list. */
static void folder_tidy(struct tree_name *folder)
{
	struct tree_name **at = &folder->children;

	while (*at) {
		struct tree_name *n = *at;

		if (n->kind != NAME_GONE) {
			at = &n->sibling;
			continue;
		}
		*at = n->sibling;
		n->listed = false;
	}
}

/* Remove all that a folder has. The depth of recursion is at most DEPTH_MAX, as below. */
static void folder_empty(struct tree_name *folder)
{
	for (struct tree_name *n = folder->children; n; n = n->sibling) {
		if (n->kind == NAME_FOLDER)
			folder_empty(n);
		name_set(n, NAME_GONE, NULL);
	}
	folder_tidy(folder);
}

/* Remove the content of a folder that earlier layers have added. A second call for the same layer finds nothing. */
static void folder_purge(struct tree_name *folder, unsigned layer)
{
	if (folder->purged == layer + 1)
		return;
	folder->purged = layer + 1;
	for (struct tree_name *n = folder->children; n; n = n->sibling) {
		if (n->kind == NAME_FOLDER)
			folder_purge(n, layer);
		if (n->layer < layer && !n->live)
			name_set(n, NAME_GONE, NULL);
	}
	folder_tidy(folder);
}

/* ---- paths ---- */

static bool is_dots(const char *text, size_t len)
{
	return (len == 1 && text[0] == '.') || (len == 2 && text[0] == '.' && text[1] == '.');
}

/* Copy a path without empty and "." parts. Returns 0; -EINVAL; -ENAMETOOLONG. */
static int path_clean(const char *path, char ret[PATH_MAX])
{
	size_t n = 0;

	for (; *path; path += strcspn(path, "/")) {
		size_t len;

		path += strspn(path, "/");
		len = strcspn(path, "/");
		if (!len || (len == 1 && *path == '.'))
			continue;
		if (is_dots(path, len))
			return -EINVAL;
		if (len > NAME_MAX || n + len + 2 > PATH_MAX)
			return -ENAMETOOLONG;
		if (n)
			ret[n++] = '/';
		memcpy(ret + n, path, len);
		n += len;
	}
	ret[n] = 0;
	return 0;
}

static int path_error(int r, const char *what, const char *path, struct err *e)
{
	if (r == -ENOMEM)
		return no_memory(e);
	if (r == -ELOOP)
		return err_set(e, r, ERR_CORRUPT, "%s %.200s leads through a cycle of symbolic links", what, path);
	if (r == -ENAMETOOLONG)
		return err_set(e, r, ERR_CORRUPT, "%s %.100s... is too long", what, path);
	if (r == -E2BIG)
		return err_set(e, r, ERR_UNSUPPORTED, "%s %.200s leads through more folders and symbolic links than the number of the image's "
			"files allows", what, path);
	return err_set(e, r, ERR_CORRUPT, "%s %.200s leaves the root of the image", what, path);
}

/* The rest of a path that is being followed. */
struct way {
	char rest[2 * PATH_MAX];
	unsigned links;
};

/* Put the target of a symbolic link in front of the rest. */
static int way_insert(struct way *w, const char *target, const char *rest)
{
	char copy[2 * PATH_MAX];
	size_t n = strlen(target), len = strlen(rest);

	if (++w->links > LINKS_MAX)
		return -ELOOP;
	if (n + len + 2 > sizeof(copy))
		return -ENAMETOOLONG;
	memcpy(copy, target, n);
	copy[n] = '/';
	memcpy(copy + n + 1, rest, len + 1);
	memcpy(w->rest, copy, n + len + 2);
	return 0;
}

/* Take the first part of the rest. Returns its length, 0 for none. */
static size_t way_next(const char **rest, char name[NAME_MAX + 1])
{
	size_t len;

	*rest += strspn(*rest, "/");
	len = strcspn(*rest, "/");
	if (len > NAME_MAX)
		return NAME_MAX + 1;
	memcpy(name, *rest, len);
	name[len] = 0;
	*rest += len;
	*rest += strspn(*rest, "/");
	return len;
}

static int folder_make(struct tree *t, struct tree_name *at, const char *name, struct tree_name **ret)
{
	struct tree_name *n;

	if (at->depth >= DEPTH_MAX)
		return -ENAMETOOLONG;
	n = name_make(t, at, name);
	if (!n)
		return -ENOMEM;
	if (n->kind != NAME_FOLDER)
		name_set(n, NAME_FOLDER, NULL);
	*ret = n;
	return 0;
}

/* Follow a clean path to the folder of its last part, through symbolic links, as runtimes unpack it.
 * make: make missing folders, also in place of files.
 * Returns 0; -ENOENT; -ELOOP; -ENAMETOOLONG; -E2BIG: see STEPS_MAX; -ENOMEM. */
static int path_follow(struct tree *t, const char *path, bool make, struct tree_name **ret_folder, char ret_name[NAME_MAX + 1])
{
	struct tree_name *at = &t->root, *n;
	struct way w = { .links = 0 };
	const char *rest = w.rest;
	int r = 0;

	memcpy(w.rest, path, strlen(path) + 1);
	for (;;) {
		size_t len = way_next(&rest, ret_name);

		if (len > NAME_MAX)
			return -ENAMETOOLONG;
		if (++t->steps > STEPS_MAX + STEPS_PER_ENTRY * (uint64_t)t->nentries)
			return -E2BIG;
		if (!*rest)
			break;
		if (is_dots(ret_name, len)) {
			at = len == 2 && at->parent ? at->parent : at;
			continue;
		}
		n = name_find(t, at, ret_name);
		if (n && n->kind == NAME_FILE && n->file->symlink) {
			at = n->file->symlink[0] == '/' ? &t->root : at;
			r = way_insert(&w, n->file->symlink, rest);
			rest = w.rest;
		} else if (n && n->kind == NAME_FOLDER) {
			at = n;
		} else {
			r = make ? folder_make(t, at, ret_name, &at) : -ENOENT;
		}
		if (r < 0)
			return r;
	}
	*ret_folder = at;
	return 0;
}

/* ---- entries ---- */

static bool is_whiteout(const char *path)
{
	const char *slash = strrchr(path, '/');

	return !strncmp(slash ? slash + 1 : path, WHITEOUT, strlen(WHITEOUT));
}

static int whiteout_take(struct tree *t, unsigned layer, struct tree_name *folder, const char *name)
{
	struct tree_name *n;

	if (!strcmp(name, WHITEOUT_OPAQUE)) {
		folder_purge(folder, layer);
		return 0;
	}
	if (!strncmp(name, WHITEOUT_META, strlen(WHITEOUT_META)))
		return 0;
	name += strlen(WHITEOUT);
	if (!*name || is_dots(name, strlen(name)))
		return -EINVAL;
	n = name_find(t, folder, name);
	if (!n)
		return 0;
	if (n->kind == NAME_FOLDER)
		folder_purge(n, layer);
	if (n->kind != NAME_GONE && n->layer < layer && !n->live)
		name_set(n, NAME_GONE, NULL);
	return 0;
}

static int whiteout_add(struct tree *t, unsigned layer, const char *path, struct err *e)
{
	char name[NAME_MAX + 1];
	struct tree_name *folder;
	int r = path_follow(t, path, false, &folder, name);

	if (!r)
		r = whiteout_take(t, layer, folder, name);
	return r < 0 && r != -ENOENT ? path_error(r, "the whiteout", path, e) : 0;
}

/* Find the file that a hard link is to share. */
static int link_find(struct tree *t, const char *path, const char *target, struct file **ret, struct err *e)
{
	char clean[PATH_MAX], name[NAME_MAX + 1];
	struct tree_name *folder, *n = NULL;
	int r = path_clean(target, clean);

	if (r < 0)
		return path_error(r, "the target of a hard link,", target, e);
	r = *clean ? path_follow(t, clean, false, &folder, name) : -ENOENT;
	if (r == -E2BIG)
		return path_error(r, "the target of a hard link,", target, e);
	if (!r)
		n = name_find(t, folder, name);
	if (!n || n->kind != NAME_FILE)
		return err_set(e, -EINVAL, ERR_CORRUPT, "the hard link %.150s has the target %.150s, which is no file of the image", path, target);
	*ret = n->file;
	return 0;
}

static int file_make(struct tree *t, const char *symlink, struct file **ret)
{
	struct file *f = calloc(1, sizeof(*f));

	if (f && symlink) {
		f->symlink = strdup(symlink);
		if (!f->symlink)
			f = NULL; /* the process ends */
	}
	if (!f)
		return -ENOMEM;
	f->entry = t->nentries - 1;
	t->made[f->entry].file = f;
	*ret = f;
	return 0;
}

/* Set the name to the entry's object. */
static int name_fill(struct tree *t, struct tree_name *n, enum tree_kind kind, struct file *file, const char *target)
{
	int r = 0;

	if (kind == TREE_FOLDER) {
		if (n->kind != NAME_FOLDER)
			name_set(n, NAME_FOLDER, NULL);
		n->entry = t->nentries - 1;
		t->made[n->entry].folder = n;
		return 0;
	}
	if (n->kind == NAME_FOLDER)
		folder_empty(n);
	if (kind != TREE_HARD_LINK)
		r = file_make(t, kind == TREE_SYMLINK ? target : NULL, &file);
	if (!r)
		name_set(n, NAME_FILE, file);
	return r;
}

static int entry_count(struct tree *t, struct err *e)
{
	if (t->nentries >= t->entries_max)
		return err_set(e, -E2BIG, ERR_UNSUPPORTED,
			"the image has more than %u files in its layers; use a smaller image, or raise --files-max", t->entries_max);
	if (t->nentries == t->room) {
		uint32_t room = t->room ? MIN(t->room * 2, t->entries_max) : MIN(4096, t->entries_max);
		struct made *made = reallocarray(t->made, room, sizeof(*made));

		if (!made)
			return no_memory(e);
		t->made = made;
		t->room = room;
	}
	t->made[t->nentries++] = (struct made){ NULL, NULL };
	return 0;
}

static int root_add(struct tree *t, enum tree_kind kind, const char *path, bool *ret_is_root, struct err *e)
{
	if (kind != TREE_FOLDER)
		return err_set(e, -EINVAL, ERR_CORRUPT, "the entry '%.100s' names the root of the image, which must be a folder", path);
	t->root.entry = t->nentries - 1;
	*ret_is_root = true;
	return 0;
}

int tree_add(struct tree *t, unsigned layer, bool whiteouts, enum tree_kind kind, const char *path, const char *target,
	bool *ret_is_root, struct err *e)
{
	char clean[PATH_MAX], name[NAME_MAX + 1];
	struct tree_name *folder, *n;
	struct file *file = NULL;
	int r = entry_count(t, e);

	*ret_is_root = false;
	if (r < 0)
		return r;
	r = path_clean(path, clean);
	if (r < 0)
		return path_error(r, "the name", path, e);
	if (!*clean)
		return root_add(t, kind, path, ret_is_root, e);
	if (kind == TREE_SYMLINK && (!target || !*target)) /* sqfstar would make an image that nobody can read */
		return err_set(e, -EINVAL, ERR_CORRUPT, "the symbolic link %.200s has no target", path);
	if (target && strlen(target) >= PATH_MAX)
		return path_error(-ENAMETOOLONG, "the target of", path, e);
	if (whiteouts && is_whiteout(clean))
		return whiteout_add(t, layer, clean, e);
	if (kind == TREE_HARD_LINK)
		r = link_find(t, path, target ? target : "", &file, e);
	if (r < 0)
		return r;
	r = path_follow(t, clean, true, &folder, name);
	if (!r && folder->depth >= DEPTH_MAX)
		r = -ENAMETOOLONG;
	n = r ? NULL : name_make(t, folder, name);
	if (!r)
		r = n ? name_fill(t, n, kind, file, target) : -ENOMEM;
	if (r < 0)
		return path_error(r, "the name", path, e);
	n->layer = layer;
	return 0;
}

/* ---- after the last entry ---- */

void tree_finish(struct tree *t)
{
	for (struct tree_name *n = t->newest; n; n = n->older)
		if (n->kind == NAME_FILE) {
			n->link = n->file->first;
			n->file->first = n;
		}
}

struct tree_name *tree_entry(struct tree *t, uint32_t entry)
{
	const struct made *m = entry < t->nentries ? &t->made[entry] : NULL;

	if (m && m->folder)
		return m->folder->kind == NAME_FOLDER && m->folder->entry == entry ? m->folder : NULL;
	return m && m->file && m->file->names ? m->file->first : NULL;
}

struct tree_name *tree_link(struct tree_name *n)
{
	return n->kind == NAME_FILE ? n->link : NULL;
}

struct tree_name *tree_bare_folder(struct tree *t, struct tree_name *after)
{
	struct tree_name *n = after ? after->older : t->newest;

	while (n && (n->kind != NAME_FOLDER || n->entry != NO_ENTRY))
		n = n->older;
	return n;
}

int tree_path(const struct tree_name *n, char ret[PATH_MAX])
{
	size_t at = PATH_MAX - 1;

	ret[at] = 0;
	for (; n->parent; n = n->parent) {
		size_t len = strlen(n->text);

		if (len + 1 > at)
			return -ENAMETOOLONG;
		at -= len;
		memcpy(ret + at, n->text, len);
		if (n->parent->parent)
			ret[--at] = '/';
	}
	memmove(ret, ret + at, PATH_MAX - at);
	return 0;
}
