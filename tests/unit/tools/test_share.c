/* cairn-share's answers: files, folders and handles that the guest knows, requests with wrong lengths, names and
 * numbers, links that lead outside, read-only folders, and the limits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/util.h"
#include "tests/unit/tmp.h"
#include "tools/share/share.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NODES_MAX 40
#define HANDLES_MAX 8
#define ROOT FUSE_ROOT_ID

struct bench {
	struct share s;
	char folder[96]; /* with "in", which is shared, and "secret" beside it */
	int in;
	_Alignas(8) uint8_t request[SHARE_FUSE_MAX];
	_Alignas(8) uint8_t answer[SHARE_FUSE_MAX];
	size_t answered;
};

static void file_put(int folder, const char *name, const char *text)
{
	int fd = openat(folder, name, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
}

/* Send a request: arg, then two pieces more. Returns the error; the answer is at b->answer. */
static int ask3(struct bench *b, uint32_t opcode, uint64_t node, const void *arg, size_t bytes, const void *more, size_t nmore,
	const void *last, size_t nlast)
{
	size_t len = sizeof(struct fuse_in_header) + bytes + nmore + nlast;
	struct fuse_in_header head = { .len = (uint32_t)len, .opcode = opcode, .unique = 99, .nodeid = node };
	const struct fuse_out_header *out = (const struct fuse_out_header *)b->answer;
	uint8_t *to = b->request;

	to = (uint8_t *)mempcpy(to, &head, sizeof(head));
	to = bytes ? (uint8_t *)mempcpy(to, arg, bytes) : to;
	to = nmore ? (uint8_t *)mempcpy(to, more, nmore) : to;
	if (nlast)
		memcpy(to, last, nlast);
	b->answered = share_answer(&b->s, b->request, len, b->answer);
	if (!b->answered)
		return 0;
	assert_int_equal(out->unique, 99);
	assert_int_equal(out->len, b->answered);
	assert_true(!out->error || out->len == sizeof(*out));
	return out->error;
}

static int ask(struct bench *b, uint32_t opcode, uint64_t node, const void *arg, size_t bytes)
{
	return ask3(b, opcode, node, arg, bytes, NULL, 0, NULL, 0);
}

static int ask_name(struct bench *b, uint32_t opcode, uint64_t node, const void *arg, size_t bytes, const char *name)
{
	return ask3(b, opcode, node, arg, bytes, name, strlen(name) + 1, NULL, 0);
}

static const void *reply_of(const struct bench *b)
{
	return b->answer + sizeof(struct fuse_out_header);
}

/* Returns the node's id; 0: an error, which is in *ret_error. */
static uint64_t look_up(struct bench *b, uint64_t folder, const char *name, int *ret_error)
{
	int r = ask_name(b, FUSE_LOOKUP, folder, NULL, 0, name);

	if (ret_error)
		*ret_error = r;
	return r ? 0 : ((const struct fuse_entry_out *)reply_of(b))->nodeid;
}

static int open_it(struct bench *b, uint32_t opcode, uint64_t node, uint32_t flags, uint64_t *ret_fh)
{
	struct fuse_open_in in = { .flags = flags };
	int r = ask(b, opcode, node, &in, sizeof(in));

	*ret_fh = 0;
	if (!r)
		*ret_fh = ((const struct fuse_open_out *)reply_of(b))->fh;
	return r;
}

static int start(struct bench *b)
{
	struct fuse_init_in in = { .major = 7, .minor = 36, .flags = ~0u };

	return ask(b, FUSE_INIT, 0, &in, sizeof(in));
}

static void bench_init(struct bench *b, bool read_only)
{
	int outside;

	memset(b, 0, sizeof(*b));
	snprintf(b->folder, sizeof(b->folder), "%s/cairn-share-XXXXXX", tmp_folder());
	assert_non_null(mkdtemp(b->folder));
	outside = open(b->folder, O_PATH | O_DIRECTORY);
	file_put(outside, "secret", "outside\n");
	assert_int_equal(mkdirat(outside, "in", 0700), 0);
	b->in = openat(outside, "in", O_PATH | O_DIRECTORY);
	close(outside);
	file_put(b->in, "file", "content\n");
	assert_int_equal(mkdirat(b->in, "sub", 0700), 0);
	assert_int_equal(symlinkat("../secret", b->in, "link"), 0);
	b->s.read_only = read_only;
	b->s.proc = open("/proc/self/fd", O_PATH | O_DIRECTORY);
	assert_int_equal(nodes_init(&b->s.nodes, dup(b->in), NODES_MAX, HANDLES_MAX), 0);
	assert_int_equal(start(b), 0);
}

static void bench_done(struct bench *b)
{
	char command[128];

	nodes_reset(&b->s.nodes);
	close(b->s.nodes.list[0].fd);
	free(b->s.nodes.list);
	free(b->s.nodes.buckets);
	free(b->s.nodes.handles);
	close(b->s.proc);
	close(b->in);
	snprintf(command, sizeof(command), "rm -rf %s", b->folder);
	assert_int_equal(system(command), 0);
}

static int read_at(struct bench *b, uint64_t node, uint64_t fh, uint64_t offset, uint32_t size)
{
	struct fuse_read_in in = { .fh = fh, .offset = offset, .size = size };

	return ask(b, FUSE_READ, node, &in, sizeof(in));
}

static void test_file_is_found_opened_and_read(void **state)
{
	struct bench b;
	uint64_t id, again, fh;

	(void)state;
	bench_init(&b, true);
	id = look_up(&b, ROOT, "file", NULL);
	assert_true(id && id != ROOT);
	again = look_up(&b, ROOT, "file", NULL);
	assert_true(again == id);
	assert_int_equal(open_it(&b, FUSE_OPEN, id, O_RDONLY, &fh), 0);
	assert_int_equal(read_at(&b, id, fh, 3, 100), 0);
	assert_int_equal(b.answered, sizeof(struct fuse_out_header) + 5);
	assert_memory_equal(reply_of(&b), "tent\n", 5);
	assert_int_equal(read_at(&b, id, fh, 0, SHARE_DATA_MAX + 1), -EINVAL);
	assert_int_equal(read_at(&b, id, fh, UINT64_MAX, 1), -EINVAL);
	assert_int_equal(read_at(&b, id, fh + 1, 0, 1), -EBADF);
	assert_int_equal(read_at(&b, id, fh | 1ULL << 32, 0, 1), -EBADF);
	assert_int_equal(read_at(&b, id, 0, 0, 1), -EBADF);
	/* Both references are gone, and then the id. */
	ask(&b, FUSE_FORGET, id, &(struct fuse_forget_in){ 2 }, 8);
	assert_int_equal(b.answered, 0);
	assert_int_equal(open_it(&b, FUSE_OPEN, id, O_RDONLY, &fh), -ESTALE);
	assert_true(look_up(&b, ROOT, "file", NULL) != id);
	bench_done(&b);
}

static void test_names_stay_in_the_folder(void **state)
{
	static const char *const wrong[] = { "..", "", "./", "sub/..", "/", "/etc", "../secret", "sub/x" };
	char longest[NAME_MAX + 2];
	struct bench b;
	uint64_t id, fh;
	int r;

	(void)state;
	bench_init(&b, false);
	for (unsigned i = 0; i < ARRAY_SIZE(wrong); i++) {
		assert_int_equal(look_up(&b, ROOT, wrong[i], &r), 0);
		assert_int_equal(r, -EINVAL);
		assert_int_equal(ask_name(&b, FUSE_UNLINK, ROOT, NULL, 0, wrong[i]), -EINVAL);
		assert_int_equal(ask_name(&b, FUSE_MKDIR, ROOT, &(struct fuse_mkdir_in){ 0 }, 8, wrong[i]), -EINVAL);
		assert_int_equal(ask3(&b, FUSE_RENAME, ROOT, &(struct fuse_rename_in){ ROOT }, 8, "file", 5, wrong[i], strlen(wrong[i]) + 1),
			-EINVAL);
	}
	memset(longest, 'x', sizeof(longest) - 1);
	longest[sizeof(longest) - 1] = 0;
	assert_int_equal(look_up(&b, ROOT, longest, &r), 0);
	assert_int_equal(r, -ENAMETOOLONG);
	/* A symbolic link is read, and never followed. */
	id = look_up(&b, ROOT, "link", NULL);
	assert_int_equal(ask(&b, FUSE_READLINK, id, NULL, 0), 0);
	assert_memory_equal(reply_of(&b), "../secret", 9);
	assert_int_equal(ask(&b, FUSE_READLINK, id, longest, sizeof(longest)), 0);
	assert_memory_equal(reply_of(&b), "../secret", 9);
	assert_int_equal(open_it(&b, FUSE_OPEN, id, O_RDONLY, &fh), -ENXIO);
	assert_int_equal(look_up(&b, id, "x", &r), 0);
	assert_int_equal(r, -ENOTDIR);
	assert_int_equal(ask_name(&b, FUSE_CREATE, ROOT, &(struct fuse_create_in){ .flags = O_RDWR, .mode = 0600 }, 16, "link"), -ELOOP);
	assert_int_equal(ask(&b, FUSE_SETATTR, id, &(struct fuse_setattr_in){ .valid = FATTR_MODE, .mode = 0777 },
		sizeof(struct fuse_setattr_in)), -EOPNOTSUPP);
	assert_int_equal(ask(&b, FUSE_SETATTR, id, &(struct fuse_setattr_in){ .valid = FATTR_SIZE }, sizeof(struct fuse_setattr_in)),
		-EINVAL);
	bench_done(&b);
}

/* Windows' driver looks the root up in this way. */
static void test_lookup_of_dot_finds_the_folder_itself(void **state)
{
	struct bench b;
	uint64_t sub;

	(void)state;
	bench_init(&b, false);
	assert_int_equal(look_up(&b, ROOT, ".", NULL), ROOT);
	sub = look_up(&b, ROOT, "sub", NULL);
	assert_int_equal(look_up(&b, sub, ".", NULL), sub);
	assert_int_equal(ask_name(&b, FUSE_RMDIR, sub, NULL, 0, "."), -EINVAL);
	assert_int_equal(ask_name(&b, FUSE_MKDIR, sub, &(struct fuse_mkdir_in){ 0 }, 8, "."), -EINVAL);
	bench_done(&b);
}

static void test_wrong_lengths_are_refused(void **state)
{
	struct fuse_in_header head = { .len = 1, .opcode = FUSE_GETATTR, .nodeid = ROOT };
	struct bench b;

	(void)state;
	bench_init(&b, false);
	memcpy(b.request, &head, sizeof(head));
	assert_int_equal(share_answer(&b.s, b.request, sizeof(head) - 1, b.answer), 0);
	assert_int_equal(share_answer(&b.s, b.request, sizeof(head), b.answer), sizeof(struct fuse_out_header));
	assert_int_equal(((struct fuse_out_header *)b.answer)->error, -EINVAL);
	assert_int_equal(ask(&b, FUSE_GETATTR, ROOT, "", 1), -EINVAL);
	assert_int_equal(ask3(&b, FUSE_LOOKUP, ROOT, "file", 4, NULL, 0, NULL, 0), -EINVAL); /* no NUL */
	assert_int_equal(ask3(&b, FUSE_LOOKUP, ROOT, "file", 5, "x", 2, NULL, 0), -EINVAL); /* more than one name */
	assert_int_equal(ask3(&b, FUSE_SYMLINK, ROOT, "name", 5, NULL, 0, NULL, 0), -EINVAL);
	assert_int_equal(ask3(&b, FUSE_WRITE, ROOT, &(struct fuse_write_in){ .size = 9 }, sizeof(struct fuse_write_in), "data", 4, NULL, 0),
		-EBADF);
	assert_int_equal(ask(&b, 0, ROOT, NULL, 0), -ENOSYS);
	assert_int_equal(ask(&b, FUSE_SETXATTR, ROOT, NULL, 0), -ENOSYS);
	assert_int_equal(ask(&b, UINT32_MAX, ROOT, NULL, 0), -ENOSYS);
	for (uint32_t op = 0; op < 60; op++)
		ask(&b, op, UINT64_MAX, NULL, 0);
	/* FUSE_DESTROY was among them. */
	assert_int_equal(look_up(&b, ROOT, "file", NULL), 0);
	assert_int_equal(start(&b), 0);
	/* More references than there are entries. */
	ask3(&b, FUSE_BATCH_FORGET, 0, &(struct fuse_batch_forget_in){ .count = UINT32_MAX }, 8,
		&(struct fuse_forget_one){ ROOT, UINT64_MAX }, 16, "rest", 4);
	assert_true(look_up(&b, ROOT, "file", NULL) != 0);
	bench_done(&b);
}

static void test_read_only_folder_does_not_change(void **state)
{
	struct bench b;
	uint64_t id, fh;

	(void)state;
	bench_init(&b, true);
	id = look_up(&b, ROOT, "file", NULL);
	assert_int_equal(open_it(&b, FUSE_OPEN, id, O_RDWR, &fh), -EROFS);
	assert_int_equal(open_it(&b, FUSE_OPEN, id, O_RDONLY | O_TRUNC, &fh), -EROFS);
	assert_int_equal(ask_name(&b, FUSE_UNLINK, ROOT, NULL, 0, "file"), -EROFS);
	assert_int_equal(ask_name(&b, FUSE_CREATE, ROOT, &(struct fuse_create_in){ .flags = O_RDWR }, 16, "new"), -EROFS);
	assert_int_equal(ask_name(&b, FUSE_MKNOD, ROOT, &(struct fuse_mknod_in){ .mode = S_IFREG }, 16, "new"), -EROFS);
	assert_int_equal(ask3(&b, FUSE_SYMLINK, ROOT, "new", 4, "x", 2, NULL, 0), -EROFS);
	assert_int_equal(ask_name(&b, FUSE_LINK, ROOT, &(struct fuse_link_in){ id }, 8, "new"), -EROFS);
	assert_int_equal(ask(&b, FUSE_SETATTR, id, &(struct fuse_setattr_in){ .valid = FATTR_MODE }, sizeof(struct fuse_setattr_in)), -EROFS);
	assert_int_equal(ask3(&b, FUSE_RENAME2, ROOT, &(struct fuse_rename2_in){ ROOT, 0, 0 }, 16, "file", 5, "new", 4), -EROFS);
	assert_int_equal(ask(&b, FUSE_FALLOCATE, id, &(struct fuse_fallocate_in){ .length = 1 }, sizeof(struct fuse_fallocate_in)), -EROFS);
	bench_done(&b);
}

static uint64_t create(struct bench *b, const char *name, uint32_t mode, uint64_t *ret_fh)
{
	const struct fuse_entry_out *e = reply_of(b);

	assert_int_equal(ask_name(b, FUSE_CREATE, ROOT, &(struct fuse_create_in){ .flags = O_RDWR, .mode = S_IFREG | mode }, 16, name), 0);
	*ret_fh = ((const struct fuse_open_out *)(e + 1))->fh;
	return e->nodeid;
}

static void test_files_are_made_written_moved_and_removed(void **state)
{
	struct bench b;
	uint64_t id, fh, sub;
	struct stat st;

	(void)state;
	bench_init(&b, false);
	id = create(&b, "new", 06755, &fh);
	assert_int_equal(fstatat(b.in, "new", &st, 0), 0);
	assert_int_equal(st.st_mode & 07000, 0); /* no set-user-ID bit */
	assert_int_equal(ask3(&b, FUSE_WRITE, id, &(struct fuse_write_in){ .fh = fh, .size = 4 }, sizeof(struct fuse_write_in), "data", 4,
		NULL, 0), 0);
	assert_int_equal(ask3(&b, FUSE_WRITE, id, &(struct fuse_write_in){ .fh = fh, .size = 5 }, sizeof(struct fuse_write_in), "data", 4,
		NULL, 0), -EINVAL);
	assert_int_equal(ask(&b, FUSE_FSYNC, id, &(struct fuse_fsync_in){ .fh = fh }, 16), 0);
	assert_int_equal(ask(&b, FUSE_SETATTR, id, &(struct fuse_setattr_in){ .valid = FATTR_SIZE | FATTR_MTIME | FATTR_MODE, .size = 2,
		.mtime = 12345, .mode = 04640 }, sizeof(struct fuse_setattr_in)), 0);
	assert_int_equal(fstatat(b.in, "new", &st, 0), 0);
	assert_int_equal(st.st_size, 2);
	assert_int_equal(st.st_mtime, 12345);
	assert_int_equal(st.st_mode & 07777, 0640);
	sub = look_up(&b, ROOT, "sub", NULL);
	assert_int_equal(ask3(&b, FUSE_RENAME2, ROOT, &(struct fuse_rename2_in){ sub, 0, 0 }, 16, "new", 4, "moved", 6), 0);
	assert_int_equal(ask3(&b, FUSE_RENAME2, ROOT, &(struct fuse_rename2_in){ sub, RENAME_WHITEOUT, 0 }, 16, "file", 5, "x", 2), -EINVAL);
	assert_int_equal(ask_name(&b, FUSE_LINK, ROOT, &(struct fuse_link_in){ id }, 8, "again"), 0);
	assert_true(look_up(&b, ROOT, "again", NULL) == id);
	assert_int_equal(ask_name(&b, FUSE_MKNOD, ROOT, &(struct fuse_mknod_in){ .mode = S_IFCHR | 0600, .rdev = 259 }, 16, "dev"), -EPERM);
	assert_int_equal(ask_name(&b, FUSE_MKNOD, ROOT, &(struct fuse_mknod_in){ .mode = S_IFIFO | 0600 }, 16, "fifo"), 0);
	id = look_up(&b, ROOT, "fifo", NULL);
	assert_int_equal(open_it(&b, FUSE_OPEN, id, O_RDONLY, &fh), -ENXIO); /* nobody waits for a writer */
	assert_int_equal(ask_name(&b, FUSE_RMDIR, ROOT, NULL, 0, "sub"), -ENOTEMPTY);
	assert_int_equal(ask_name(&b, FUSE_UNLINK, sub, NULL, 0, "moved"), 0);
	assert_int_equal(ask_name(&b, FUSE_RMDIR, ROOT, NULL, 0, "sub"), 0);
	bench_done(&b);
}

/* Read a folder in pieces of `size` bytes. Returns the number of entries. */
static unsigned entries_count(struct bench *b, uint64_t folder, uint32_t size)
{
	uint64_t fh, offset = 0;
	unsigned n = 0;

	assert_int_equal(open_it(b, FUSE_OPENDIR, folder, 0, &fh), 0);
	for (;;) {
		struct fuse_read_in in = { .fh = fh, .offset = offset, .size = size };
		size_t at = 0;

		assert_int_equal(ask(b, FUSE_READDIR, folder, &in, sizeof(in)), 0);
		if (b->answered == sizeof(struct fuse_out_header))
			break;
		assert_true(b->answered <= sizeof(struct fuse_out_header) + size);
		for (; at < b->answered - sizeof(struct fuse_out_header); n++) {
			const struct fuse_dirent *d = (const struct fuse_dirent *)((const uint8_t *)reply_of(b) + at);

			assert_true(d->namelen && d->namelen <= NAME_MAX);
			assert_true(d->namelen != 2 || memcmp(d->name, "..", 2) != 0 || d->ino == 0xffffffff);
			offset = d->off;
			at += FUSE_DIRENT_SIZE(d);
		}
	}
	assert_int_equal(ask(b, FUSE_RELEASEDIR, folder, &(struct fuse_release_in){ .fh = fh }, sizeof(struct fuse_release_in)), 0);
	return n;
}

static void test_large_folder_is_read_in_pieces(void **state)
{
	struct bench b;
	char name[16];
	uint64_t fh;

	(void)state;
	bench_init(&b, true);
	for (unsigned i = 0; i < 2000; i++) {
		snprintf(name, sizeof(name), "f%u", i);
		file_put(b.in, name, "");
	}
	assert_int_equal(entries_count(&b, ROOT, 4096), 2000 + 5);
	assert_int_equal(entries_count(&b, ROOT, UINT32_MAX), 2000 + 5);
	assert_int_equal(entries_count(&b, ROOT, 8), 0); /* there is room for none */
	assert_int_equal(open_it(&b, FUSE_OPENDIR, ROOT, 0, &fh), 0);
	/* Any offset, and a handle of the other kind. */
	ask(&b, FUSE_READDIR, ROOT, &(struct fuse_read_in){ .fh = fh, .offset = UINT64_MAX, .size = 4096 }, sizeof(struct fuse_read_in));
	assert_int_equal(read_at(&b, ROOT, fh, 0, 1), -EBADF);
	bench_done(&b);
}

/* Read the root with the entries' attributes. Returns the number of entries, and *ret: the one of this name. */
static unsigned plus_find(struct bench *b, uint32_t size, const char *name, struct fuse_entry_out *ret)
{
	uint64_t fh, offset = 0;
	unsigned n = 0;

	assert_int_equal(open_it(b, FUSE_OPENDIR, ROOT, 0, &fh), 0);
	for (;;) {
		struct fuse_read_in in = { .fh = fh, .offset = offset, .size = size };
		size_t at = 0;

		assert_int_equal(ask(b, FUSE_READDIRPLUS, ROOT, &in, sizeof(in)), 0);
		if (b->answered == sizeof(struct fuse_out_header))
			break;
		assert_true(b->answered <= sizeof(struct fuse_out_header) + size);
		for (; at < b->answered - sizeof(struct fuse_out_header); n++) {
			const struct fuse_direntplus *d = (const struct fuse_direntplus *)((const uint8_t *)reply_of(b) + at);

			if (d->dirent.namelen == strlen(name) && !memcmp(d->dirent.name, name, strlen(name)))
				*ret = d->entry_out;
			offset = d->dirent.off;
			at += FUSE_DIRENTPLUS_SIZE(d);
		}
	}
	assert_int_equal(ask(b, FUSE_RELEASEDIR, ROOT, &(struct fuse_release_in){ .fh = fh }, sizeof(struct fuse_release_in)), 0);
	return n;
}

static void test_folder_is_read_with_attributes(void **state)
{
	static const uint32_t sizes[] = { 200, 4096, UINT32_MAX };
	struct fuse_entry_out e;
	struct bench b;

	(void)state;
	bench_init(&b, true);
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		assert_int_equal(plus_find(&b, sizes[i], "file", &e), 5);
		assert_true(!e.nodeid && S_ISREG(e.attr.mode) && e.attr.size == 8);
		plus_find(&b, sizes[i], "sub", &e);
		assert_true(!e.nodeid && S_ISDIR(e.attr.mode) && e.attr.nlink);
		plus_find(&b, sizes[i], "..", &e);
		assert_true(!e.nodeid && S_ISDIR(e.attr.mode) && e.attr.ino == 0xffffffff && !e.attr.mtime);
	}
	assert_int_equal(plus_find(&b, 8, "file", &e), 0);
	/* The driver reads symbolic links. */
	plus_find(&b, 4096, "link", &e);
	assert_true(e.nodeid && S_ISLNK(e.attr.mode));
	assert_int_equal(ask(&b, FUSE_READLINK, e.nodeid, NULL, 0), 0);
	assert_memory_equal(reply_of(&b), "../secret", 9);
	ask(&b, FUSE_FORGET, e.nodeid, &(struct fuse_forget_in){ UINT64_MAX }, 8);
	assert_int_equal(ask(&b, FUSE_READLINK, e.nodeid, NULL, 0), -ESTALE);
	bench_done(&b);
}

static void test_folder_with_more_links_than_nodes_is_read(void **state)
{
	struct fuse_entry_out e;
	struct bench b;
	char name[16];
	unsigned n = 0;

	(void)state;
	bench_init(&b, true);
	for (unsigned i = 0; i < 2 * NODES_MAX; i++) {
		snprintf(name, sizeof(name), "l%u", i);
		assert_int_equal(symlinkat("file", b.in, name), 0);
	}
	for (unsigned i = 0; i < 2 * NODES_MAX; i++) {
		snprintf(name, sizeof(name), "l%u", i);
		assert_int_equal(plus_find(&b, 4096, name, &e), 5 + 2 * NODES_MAX);
		assert_true(S_ISLNK(e.attr.mode) && e.attr.size == 4);
		n += e.nodeid != 0;
	}
	assert_in_range(n, NODES_MAX / 2 - 2, NODES_MAX / 2 - 1); /* without the root; `link` may have one, too */
	assert_true(look_up(&b, ROOT, "file", NULL) != 0);
	bench_done(&b);
}

static void test_limits_hold(void **state)
{
	struct bench b;
	char name[16];
	uint64_t id, fh;
	unsigned n = 0;
	int r = 0;

	(void)state;
	bench_init(&b, false);
	for (unsigned i = 0; i < 2 * NODES_MAX; i++) {
		snprintf(name, sizeof(name), "f%u", i);
		file_put(b.in, name, "");
		n += look_up(&b, ROOT, name, &r) != 0;
	}
	assert_int_equal(r, -ENFILE);
	assert_int_equal(n, NODES_MAX - 1);
	id = look_up(&b, ROOT, "f0", NULL);
	for (n = 0; !(r = open_it(&b, FUSE_OPEN, id, O_RDONLY, &fh)) && n < 100;)
		n++;
	assert_int_equal(r, -ENFILE);
	assert_int_equal(n, HANDLES_MAX);
	assert_int_equal(start(&b), 0); /* a new session has all of it again */
	id = look_up(&b, ROOT, "f70", NULL);
	assert_true(id != 0);
	assert_int_equal(open_it(&b, FUSE_OPEN, id, O_RDONLY, &fh), 0);
	bench_done(&b);
}

static void test_other_versions_are_refused(void **state)
{
	struct bench b;

	(void)state;
	bench_init(&b, true);
	assert_int_equal(ask(&b, FUSE_INIT, 0, &(struct fuse_init_in){ .major = 6, .minor = 40 }, 16), -EPROTO);
	assert_int_equal(ask(&b, FUSE_INIT, 0, &(struct fuse_init_in){ .major = 7, .minor = 8 }, 16), -EPROTO);
	assert_int_equal(look_up(&b, ROOT, "file", NULL), 0);
	/* The guest asks again with the version that the answer names. */
	assert_int_equal(ask(&b, FUSE_INIT, 0, &(struct fuse_init_in){ .major = 8 }, 16), 0);
	assert_int_equal(((const struct fuse_init_out *)reply_of(&b))->major, 7);
	assert_int_equal(look_up(&b, ROOT, "file", NULL), 0);
	assert_int_equal(start(&b), 0);
	assert_int_equal(((const struct fuse_init_out *)reply_of(&b))->flags & FUSE_DO_READDIRPLUS, 0);
	bench_done(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_file_is_found_opened_and_read),
		cmocka_unit_test(test_names_stay_in_the_folder),
		cmocka_unit_test(test_lookup_of_dot_finds_the_folder_itself),
		cmocka_unit_test(test_wrong_lengths_are_refused),
		cmocka_unit_test(test_read_only_folder_does_not_change),
		cmocka_unit_test(test_files_are_made_written_moved_and_removed),
		cmocka_unit_test(test_large_folder_is_read_in_pieces),
		cmocka_unit_test(test_folder_is_read_with_attributes),
		cmocka_unit_test(test_folder_with_more_links_than_nodes_is_read),
		cmocka_unit_test(test_limits_hold),
		cmocka_unit_test(test_other_versions_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
