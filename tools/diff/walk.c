#include "api/wire/json.h"
#include "base/loop.h"
#include "base/utf8.h"
#include "base/util.h"
#include "tools/diff/files.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATH_BYTES 4096u /* longer ones cannot be opened in the guest either */
#define TEXT_BYTES (4 * PATH_BYTES)
#define NAMES_MAX (4u << 20)
#define NAME_BYTES 255u

/* ---- paths as text ---- */

/* Escape control characters, invalid UTF-8 and backslashes. buf: of TEXT_BYTES. */
static void path_escape(const char *path, char *buf)
{
	const unsigned char *s = (const unsigned char *)path;

	for (size_t len; *s; s += len) {
		uint32_t c = *s;

		len = 1;
		if (c >= 0x80)
			c = utf8_next(s, strlen((const char *)s), &len);
		if (*s == '\\')
			buf += sprintf(buf, "\\\\");
		else if (utf8_is_control(c) || (*s >= 0x80 && len == 1))
			for (size_t i = 0; i < len; i++)
				buf += sprintf(buf, "\\x%02x", s[i]);
		else
			buf = mempcpy(buf, s, len);
	}
	*buf = 0;
}

static int hex_digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The reverse. buf: of PATH_BYTES; a longer path is cut. */
static void path_unescape(const char *s, char *buf)
{
	size_t n = 0;

	for (; *s && n < PATH_BYTES - 1; s++) {
		if (*s == '\\' && s[1] == 'x' && hex_digit(s[2]) >= 0 && hex_digit(s[3]) >= 0) {
			buf[n++] = (char)(hex_digit(s[2]) << 4 | hex_digit(s[3]));
			s += 3;
		} else {
			s += *s == '\\' && s[1];
			buf[n++] = *s;
		}
	}
	buf[n] = 0;
}

/* ---- directories ---- */

struct name {
	ext2_ino_t ino, dir; /* the directory that the name is in */
	char *text; /* owned, ends with NUL */
};
struct names {
	struct name *list;
	size_t n, cap;
	ext2_ino_t parent; /* the folder that the entry ".." names; 0: no entry */
	bool bad;
};

static int name_take(ext2_ino_t dir, int entry, struct ext2_dir_entry *d, int offset, int blocksize, char *buf, void *opaque)
{
	struct names *t = opaque;
	size_t len = (size_t)ext2fs_dirent_name_len(d);

	(void)entry;
	(void)offset;
	(void)blocksize;
	(void)buf;
	if (len == 2 && !memcmp(d->name, "..", 2))
		t->parent = d->inode;
	if (!d->inode || !len || memchr(d->name, 0, len) || memchr(d->name, '/', len) || (len <= 2 && !memcmp(d->name, "..", len)))
		return 0;
	if (t->n == NAMES_MAX) {
		t->bad = true;
		return DIRENT_ABORT;
	}
	if (t->n == t->cap) {
		t->cap = t->cap ? 2 * t->cap : 32;
		t->list = must_alloc(reallocarray(t->list, t->cap, sizeof(*t->list)));
	}
	t->list[t->n++] = (struct name){ d->inode, dir, must_alloc(strndup(d->name, len)) };
	return 0;
}

static int name_order(const void *a, const void *b)
{
	return strcmp(((const struct name *)a)->text, ((const struct name *)b)->text);
}

static void names_free(struct names *t)
{
	for (size_t i = 0; i < t->n; i++)
		free(t->list[i].text);
	free(t->list);
	*t = (struct names){ 0 };
}

/* Sort the names, and remove those that are there twice: a page could not tell at which of them it begins. */
static void names_sort(struct ext *x, struct names *t)
{
	size_t n = 0;

	if (t->n)
		qsort(t->list, t->n, sizeof(*t->list), name_order);
	for (size_t i = 0; i < t->n; i++) {
		if (n && !name_order(&t->list[i], &t->list[n - 1])) {
			x->damaged++;
			free(t->list[i].text);
		} else {
			t->list[n++] = t->list[i];
		}
	}
	t->n = n;
}

/* Note that the walk was in a directory, or has passed it. Returns whether that was noted before. */
static bool seen_set(struct ext *x, ext2_ino_t ino)
{
	uint8_t bit = (uint8_t)(1 << ino % 8);
	bool was = ino > x->fs->super->s_inodes_count || x->seen[ino / 8] & bit;

	if (!was)
		x->seen[ino / 8] |= bit;
	return was;
}

/* Read a directory only once, and only below the directory that it names as its parent. A forged directory may lead
 * to itself, or to so many paths that no walk ends. */
static void names_read(struct ext *x, const struct file *dir, struct names *ret)
{
	*ret = (struct names){ 0 };
	if (!x || !dir || seen_set(x, dir->ino))
		return;
	if (ext2fs_dir_iterate2(x->fs, dir->ino, 0, NULL, name_take, ret) || ret->bad)
		x->damaged++;
	if (dir->parent && ret->parent != dir->parent) {
		x->damaged++;
		names_free(ret);
	}
	names_sort(x, ret);
}

/* ---- entries of the page ---- */

static const char *kind_word(const struct file *f)
{
	switch (f->inode->i_mode & LINUX_S_IFMT) {
	case LINUX_S_IFREG: return "file";
	case LINUX_S_IFDIR: return "folder";
	case LINUX_S_IFLNK: return "link";
	default: return "special";
	}
}

static void changes_put(struct json_object *o, unsigned changes)
{
	static const char *const words[] = { "type", "content", "mode", "owner", "time", "links", "attributes" };
	struct json_object *list = json_object_new_array();

	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (changes & 1u << i)
			json_object_array_add(list, json_object_new_string(words[i]));
	js_put(o, "what", list);
}

/* Add a file that one of them has, or that has changed. Returns false if the page ends. */
static bool entry_put(struct walk *w, const char *path, const struct file *a, const struct file *b, unsigned changes)
{
	struct json_object *o = json_object_new_object();
	char text[TEXT_BYTES], next[TEXT_BYTES + 64];
	const struct file *f = b->inode ? b : a;

	path_escape(path, text);
	snprintf(next, sizeof(next), "%s:%" PRIu64 ":%s", w->d->id, w->part.start, text);
	js_put_str(o, "disk", w->d->id);
	js_put_uint(o, "partition", w->part.number);
	js_put_str(o, "change", !a->inode ? "added" : !b->inode ? "removed" : "changed");
	js_put_str(o, "kind", kind_word(f));
	js_put_str(o, "path", text);
	if (a->inode)
		js_put_uint(o, "size-before", file_bytes(a));
	if (b->inode)
		js_put_uint(o, "size", file_bytes(b));
	if (changes)
		changes_put(o, changes);
	return diff_page_add(w->page, o, next);
}

/* End the page because of the time, if a name was compared, so that each page brings the caller on. */
static bool time_is_over(struct walk *w, const char *path)
{
	char text[TEXT_BYTES], next[TEXT_BYTES + 64];

	if (!w->began || loop_now_ns() < w->deadline_ns)
		return false;
	path_escape(path, text);
	snprintf(next, sizeof(next), "%s:%" PRIu64 ":%s", w->d->id, w->part.start, text);
	w->page->next = must_alloc(strdup(next));
	return true;
}

/* ---- the walk ---- */

static bool folder_walk(struct walk *w, char *path, size_t len, const struct file *a, const struct file *b, const char *from);

static bool is_folder(const struct file *f)
{
	return f->inode && (f->inode->i_mode & LINUX_S_IFMT) == LINUX_S_IFDIR;
}

/* Skip a name. The walk of an earlier page was there, so it is not below another name any more. */
static void names_pass(struct walk *w, const struct name *na, const struct name *nb)
{
	if (na)
		seen_set(w->a, na->ino);
	if (nb)
		seen_set(w->b, nb->ino);
}

/* Compare the two files of one name. from: where to begin below it; NULL: with the name itself. */
static bool name_walk(struct walk *w, char *path, size_t len, const struct name *na, const struct name *nb, const char *from)
{
	struct file a = { .x = w->a, .ino = na ? na->ino : 0, .parent = na ? na->dir : 0 },
		    b = { .x = w->b, .ino = nb ? nb->ino : 0, .parent = nb ? nb->dir : 0 };
	bool more = true;

	a.inode = na ? ext_inode(w->a, na->ino) : NULL;
	b.inode = nb ? ext_inode(w->b, nb->ino) : NULL;
	if ((na && !a.inode) || (nb && !b.inode))
		goto out; /* counted as damaged */
	if (!from) {
		unsigned changes;

		more = !time_is_over(w, path);
		changes = more && na && nb ? file_compare(w->d, &a, &b) : 0;
		if (more && (changes || !na || !nb))
			more = entry_put(w, path, &a, &b, changes);
		w->began = true;
	}
	if (more && (is_folder(&a) || is_folder(&b)))
		more = folder_walk(w, path, len, is_folder(&a) ? &a : NULL, is_folder(&b) ? &b : NULL, from ? from : "");
out:
	free(a.inode);
	free(b.inode);
	return more;
}

/* Compare two directories, or list one. path[len]: the end of the directory's path.
 * from: names, separated by '/', of the place in it at which to begin; "": the beginning. */
static bool folder_walk(struct walk *w, char *path, size_t len, const struct file *a, const struct file *b, const char *from)
{
	size_t first = strcspn(from, "/"), i = 0, k = 0;
	struct names ta, tb;
	bool more = true;

	names_read(w->a, a, &ta);
	names_read(w->b, b, &tb);
	while (more && (i < ta.n || k < tb.n)) {
		int order = i == ta.n ? 1 : k == tb.n ? -1 : name_order(&ta.list[i], &tb.list[k]);
		const struct name *na = order <= 0 ? &ta.list[i++] : NULL, *nb = order >= 0 ? &tb.list[k++] : NULL, *n = na ? na : nb;
		int place = first ? strncmp(n->text, from, first) : 1;

		if (!place && n->text[first])
			place = 1; /* the name is longer */
		if (place < 0 || len + 1 + strlen(n->text) >= PATH_BYTES - 1) {
			names_pass(w, na, nb);
			continue;
		}
		path[len] = '/';
		strcpy(path + len + 1, n->text);
		more = name_walk(w, path, len + 1 + strlen(n->text), na, nb, !place && from[first] == '/' ? from + first + 1 : NULL);
		path[len] = 0;
	}
	names_free(&ta);
	names_free(&tb);
	return more;
}

bool files_walk(struct walk *w, const char *from)
{
	char path[PATH_BYTES + NAME_BYTES + 2] = "", place[PATH_BYTES];
	struct file a = { .x = w->a, .ino = EXT2_ROOT_INO }, b = { .x = w->b, .ino = EXT2_ROOT_INO };

	path_unescape(from, place);
	return folder_walk(w, path, 0, &a, &b, place + (*place == '/'));
}
