#include "img.h"

#include "base/cleanup.h"
#include "base/pin_name.h"
#include "base/util.h"
#include "block/block_snapshot.h"
#include "block/lock.h"
#include "block/parts.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/xattr.h>

/* Links that are followed to a file, at most, as in the kernel. */
#define LINKS_MAX 40u
/* How often a snapshot table is read that another process replaces each time meanwhile. */
#define TABLE_TRIES 100u

void img_layers_free(struct img_layer *layers, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		free(layers[i].path);
		free(layers[i].shown);
		free(layers[i].data_path);
		if (layers[i].fd >= 0)
			close(layers[i].fd);
		if (layers[i].data_fd)
			close(layers[i].data_fd);
	}
}

struct block_layer img_layer_files(const struct img_layer *y)
{
	return (struct block_layer){ .fd = y->fd, .format = y->format, .data_fd = y->data_fd, .name = img_layer_shown(y) };
}

void img_layer_given(struct img_layer *y)
{
	y->fd = -1;
	y->data_fd = 0;
}

bool img_format_is_qemus(const char *name)
{
	static const char *const others[] = { "vmdk", "vdi", "vhdx", "vpc", "qcow", "qed", "parallels", "bochs", "cloop", "dmg" };

	for (size_t i = 0; i < ARRAY_SIZE(others); i++)
		if (!strcmp(name, others[i]))
			return true;
	return false;
}

int img_format_parse(const char *name, enum block_format *ret, struct err *e)
{
	int f = block_format_from_name(name);

	/* QEMU's names of the protocols below raw, which an image's header may give as the format. */
	if (f < 0 && (!strcmp(name, "file") || !strcmp(name, "host_device")))
		f = BLOCK_FORMAT_RAW;
	if (f >= 0) {
		*ret = (enum block_format)f;
		return 0;
	}
	if (!strcmp(name, "luks"))
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "the format luks is not supported, because Cairn does not encrypt "
			"images; `qemu-img convert` makes a qcow2 image of one");
	if (img_format_is_qemus(name))
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "unknown format '%s'; use raw or qcow2, and "
			"`qemu-img convert -f %s -O qcow2 OLD NEW` to make a qcow2 image of one", name, name);
	return err_set(e, -EINVAL, ERR_INVALID, "unknown format '%s'; use raw or qcow2", name);
}

bool img_is_qcow2(const void *buf)
{
	return !memcmp(buf, "QFI\xfb", 4);
}

/* Return the name of the format, other than raw and qcow2, whose files begin so; NULL: none. buf: 512 bytes. */
static const char *other_format(const char *buf)
{
	static const struct {
		const char *format;
		unsigned at, bytes;
		const char *magic;
	} all[] = {
		{ "vmdk", 0, 4, "KDMV" },
		{ "vmdk", 0, 4, "COWD" },
		{ "vmdk", 0, 21, "# Disk DescriptorFile" },
		{ "vdi", 64, 4, "\x7f\x10\xda\xbe" },
		{ "vhdx", 0, 8, "vhdxfile" },
		{ "vpc", 0, 8, "conectix" },
		{ "qed", 0, 4, "QED" },
		{ "parallels", 0, 16, "WithoutFreeSpace" },
		{ "parallels", 0, 16, "WithouFreSpacExt" },
		{ "bochs", 0, 22, "Bochs Virtual HD Image" },
		{ "luks", 0, 6, "LUKS\xba\xbe" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		if (!memcmp(buf + all[i].at, all[i].magic, all[i].bytes))
			return all[i].format;
	return NULL;
}

/* Detect the format from the header, unless the user has given one. */
static int format_find(const struct img_open *o, int fd, enum block_format *ret, struct err *e)
{
	char buf[512] = { 0 };
	const char *other;
	bool is_luks;

	if (o->format)
		return img_format_parse(o->format, ret, e);
	if (pread(fd, buf, sizeof(buf), 0) < 0)
		return err_set_errno(e, -errno, "cannot read %s", o->path);
	other = other_format(buf);
	is_luks = other && !strcmp(other, "luks");
	if (other)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "%s begins like an image of the format %s, which is not supported; "
			"`qemu-img convert %s%s -O qcow2 %sOLD NEW` makes a qcow2 image of one, and -f raw takes it as a raw disk",
			o->path, other, is_luks ? "--object secret,id=s,file=SECRET --image-opts" : "-f ", is_luks ? "" : other,
			is_luks ? "driver=luks,key-secret=s,file.filename=" : "");
	*ret = img_is_qcow2(buf) ? BLOCK_FORMAT_QCOW2 : BLOCK_FORMAT_RAW;
	return 0;
}

/* Files of the options --fd. Global, because one process runs one verb. */
static struct {
	const char *path;
	int fd;
} given[IMG_FDS_MAX];
static unsigned ngiven;

int img_fd_give(int fd, const char *path)
{
	if (ngiven == ARRAY_SIZE(given))
		return -E2BIG;
	given[ngiven].fd = fd;
	given[ngiven++].path = path;
	return 0;
}

int img_fd_given(const char *path)
{
	for (unsigned i = 0; i < ngiven; i++)
		if (!strcmp(given[i].path, path))
			return given[i].fd;
	return -1;
}

int img_fd_open(const char *path, int flags, mode_t mode)
{
	int fd = img_fd_given(path);

	return fd < 0 ? open(path, flags, mode) : dup(fd);
}

/* Give the file the extended attribute of the file `old`: an ACL, for example. Returns whether it has it now, and
 * false if only the new file has one, such as the ACL that its folder gives. */
static bool attribute_copy(int old, int fd, const char *name)
{
	char had[XATTR_SIZE_MAX], has[XATTR_SIZE_MAX];
	ssize_t n = fgetxattr(old, name, had, sizeof(had)), m = fgetxattr(fd, name, has, sizeof(has));

	return n >= 0 && ((m == n && !memcmp(had, has, (size_t)n)) || !fsetxattr(fd, name, had, (size_t)n, 0));
}

/* of: whose attributes are listed. */
static bool attributes_copy(int old, int fd, int of)
{
	char names[XATTR_LIST_MAX];
	ssize_t n = flistxattr(of, names, sizeof(names));

	if (n < 0)
		return errno == ENOTSUP;
	for (const char *at = names; at < names + n; at += strlen(at) + 1)
		if (!attribute_copy(old, fd, at))
			return false;
	return true;
}

int img_replacement_open(const char *tmp, int old)
{
	struct stat had, st;
	int fd;

	if (old >= 0 && fstat(old, &had) < 0)
		return -errno;
	fd = open(tmp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, old < 0 ? 0644 : had.st_mode & 0777);
	if (fd < 0)
		return old >= 0 && errno == EACCES ? 0 : -errno;
	if (old < 0 || (!fstat(fd, &st) && had.st_nlink == 1 && st.st_uid == had.st_uid && st.st_gid == had.st_gid &&
		st.st_mode == had.st_mode && attributes_copy(old, fd, old) && attributes_copy(old, fd, fd)))
		return fd;
	close(fd);
	unlink(tmp);
	return 0;
}

int img_kind_check(const struct stat *st, const char *path, struct err *e)
{
	if (S_ISREG(st->st_mode) || S_ISBLK(st->st_mode))
		return 0;
	return err_set(e, -EINVAL, ERR_INVALID, "%s is %s; an image is a file or a block device",
		path, S_ISDIR(st->st_mode) ? "a folder" : "neither a file nor a block device");
}

static int file_open(const char *path, bool writable, int *ret_fd, struct err *e)
{
	CLEANUP_CLOSE int fd = img_fd_open(path, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK, 0);
	int r = fd < 0 ? -errno : 0;
	struct stat st;

	/* The sandbox refuses to open any folder. */
	if (fd < 0 ? stat(path, &st) < 0 || !S_ISDIR(st.st_mode) : fstat(fd, &st) < 0)
		return err_set_errno(e, r ? r : -errno, "cannot open %s", path);
	r = img_kind_check(&st, path, e);
	if (!r)
		*ret_fd = steal_fd(&fd);
	return r;
}

/* Note the URL of a layer that is no file. img_layers_join() opens it. */
static int url_layer(struct img_layer *y, const char *url, struct err *e)
{
	y->path = strdup(url);
	return y->path ? 0 : err_set_errno(e, -ENOMEM, "%s", url);
}

static int layer_open(struct img_layer *y, const char *path, bool writable, struct err *e)
{
	y->path = strdup(path);
	return y->path ? file_open(path, writable, &y->fd, e) : err_set_errno(e, -ENOMEM, "%s", path);
}

int img_layer_reopen(struct img_layer *y, struct err *e)
{
	char checked[32]; /* the open file, because its name may point to another file by now */
	int fd, r;

	if (y->protocol)
		return 0;
	r = file_open(y->path, true, &fd, e);
	if (r < 0)
		return r;
	close(y->fd);
	y->fd = fd;
	if (!y->data_fd)
		return 0;
	snprintf(checked, sizeof(checked), "/proc/self/fd/%d", y->data_fd);
	r = file_open(checked, true, &fd, e);
	if (r < 0)
		return r;
	close(y->data_fd);
	y->data_fd = fd;
	return 0;
}

/* ---- allowed places of backing and data files ---- */

static bool layer_below(const char *path, const char *dir)
{
	char real[PATH_MAX];
	size_t n;

	if (!realpath(dir, real))
		return false;
	n = strlen(real);
	return n == 1 || (!strncmp(path, real, n) && path[n] == '/');
}

void img_folder_of(const char *path, char *ret, size_t cap)
{
	const char *slash = strrchr(path, '/');

	if (!slash)
		snprintf(ret, cap, ".");
	else
		snprintf(ret, cap, "%.*s", (int)MAX(slash - path, (ptrdiff_t)1), path);
}

/* Names such as "nbd://..." or "json:{...}" would make other programs open a network connection. A colon before the
 * first slash is never part of a path here. */
bool img_has_protocol(const char *name)
{
	size_t n = strcspn(name, ":/");

	return name[n] == ':';
}

void img_path_beside(const char *image, const char *name, char *ret, size_t cap)
{
	const char *path = img_name_path(name), *slash = *path == '/' || path != name ? NULL : strrchr(image, '/');

	snprintf(ret, cap, "%.*s%s", slash ? (int)(slash + 1 - image) : 0, image, path);
}

void img_path_follow(const char *path, char ret[2 * PATH_MAX])
{
	char link[PATH_MAX], from[2 * PATH_MAX];
	ssize_t n;

	snprintf(ret, 2 * PATH_MAX, "%s", path);
	for (unsigned i = 0; i < LINKS_MAX && (n = readlink(ret, link, sizeof(link) - 1)) > 0; i++) {
		link[n] = 0;
		memcpy(from, ret, sizeof(from));
		img_path_beside(from, link, ret, 2 * PATH_MAX);
	}
}

void img_backing_path(const struct qcow2_header *h, char ret[QCOW2_BACKING_NAME_MAX + 1])
{
	uint8_t id[BLOCK_PIN_ID_BYTES];
	size_t n;

	if (h->has_pin && pin_name_parse(h->backing_name, &n, id))
		snprintf(ret, QCOW2_BACKING_NAME_MAX + 1, "%.*s", (int)n, h->backing_name + PIN_NAME_PATH_AT);
	else
		snprintf(ret, QCOW2_BACKING_NAME_MAX + 1, "%s", h->backing_name);
}

int img_snapshots_read(struct img_layer *y, struct qcow2_snapshot_info **ret_list, size_t *ret_n, struct err *e)
{
	struct qcow2_header *h = &y->header, after;
	struct err ignored;
	int r;

	for (unsigned i = 0;; i++) {
		r = qcow2_snapshots_read(y->fd, h, ret_list, ret_n, e);
		if (qcow2_header_read(y->fd, y->path, &after, &ignored) < 0 || i == TABLE_TRIES ||
			(after.snapshots_offset == h->snapshots_offset && after.nb_snapshots == h->nb_snapshots))
			return r;
		if (!r)
			qcow2_snapshots_free(*ret_list, *ret_n);
		h->snapshots_offset = after.snapshots_offset;
		h->nb_snapshots = after.nb_snapshots;
	}
}

int img_pins_refuse(const struct img_layer *y, const char *verb, struct err *e)
{
	uint8_t id[BLOCK_PIN_ID_BYTES];
	struct qcow2_snapshot_info *list;
	unsigned pins = 0;
	size_t n;
	int r = y->format == BLOCK_FORMAT_QCOW2 ? qcow2_snapshots_read(y->fd, &y->header, &list, &n, e) : 1;

	if (r)
		return r < 0 ? r : 0;
	for (size_t i = 0; i < n; i++)
		pins += qcow2_pin_marked(&list[i], id);
	qcow2_snapshots_free(list, n);
	return !pins ? 0 : err_set(e, -EBUSY, ERR_BUSY, "%s holds the content of live clones' disks (%u pin%s), which "
		"%s would change; remove the clones or make their disks independent first", y->path, pins,
		pins == 1 ? "" : "s", verb);
}

int img_snapshots_refuse(const struct img_layer *y, const char *verb, struct err *e)
{
	int r = img_pins_refuse(y, verb, e);

	if (r < 0 || y->format != BLOCK_FORMAT_QCOW2 || !y->header.nb_snapshots)
		return r;
	return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "%s has internal snapshots (%u), which read the backing file, so %s would change them; delete "
		"them first with `cairn-img snapshot -d`", y->path, y->header.nb_snapshots, verb);
}

/* Resolve the name of a backing or data file and check its place. what: "backing" or "data", for errors. */
static int file_resolve(const struct img_open *o, const char *image, const char *name,
	const char *what, char *ret, struct err *e)
{
	char dir[PATH_MAX], joined[2 * PATH_MAX];
	const char *path = img_name_path(name);
	bool ok, beside = *path != '/' && path == name; /* QEMU looks for "file:NAME" in the present folder */

	if (path == name && img_has_protocol(name))
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "%s names '%s' as its %s file; only local files are followed%s",
			image, name, what, strcmp(what, "backing") ? "" : "; if you trust the image, add --trust-backing");
	img_folder_of(image, dir, sizeof(dir));
	snprintf(joined, sizeof(joined), "%s%s%s", beside ? dir : "", beside ? "/" : "", path);
	if (!realpath(joined, ret))
		return err_set_errno(e, -errno, "%s: %s file %s", image, what, joined);
	ok = o->trust || layer_below(ret, dir);
	for (unsigned i = 0; i < o->nallow && !ok; i++)
		ok = layer_below(ret, o->allow[i]);
	if (!ok)
		return err_set(e, -EACCES, ERR_PERMISSION,
			"%s names the %s file %s, which lies outside of its folder; if you trust the "
			"image, add --allow DIR", image, what, ret);
	return 0;
}

int img_stat(const char *path, struct stat *ret)
{
	int fd = img_fd_given(path);

	return (fd < 0 ? stat(path, ret) : fstat(fd, ret)) < 0 ? -errno : 0;
}

static bool same_file(int a, int b)
{
	struct stat x, y;

	return !fstat(a, &x) && !fstat(b, &y) && img_same_file(&x, &y);
}

/* Refuse to copy an image to one of its own files. fd: a file of layer n. */
static int target_check(const struct img_open *o, const struct img_layer *layers, unsigned n, int fd, struct err *e)
{
	struct stat st, to;

	for (size_t i = 0; i < ARRAY_SIZE(o->targets); i++) {
		const char *target = o->targets[i], *what = i ? "the target's data file" : "the target";

		if (!target || fstat(fd, &st) < 0 || img_stat(target, &to) < 0 || !img_same_file(&st, &to))
			continue;
		if (fd != layers[n].fd)
			return err_set(e, -EINVAL, ERR_INVALID, "%s %s is a data file of the source %s; choose another one", what, target, o->path);
		if (!n)
			return err_set(e, -EINVAL, ERR_INVALID, "source and %s are the same file", what + strlen("the "));
		return err_set(e, -EINVAL, ERR_INVALID, "%s %s is a backing file of the source %s; choose another one, or use "
			"`cairn-img commit` to write the source's data to its backing file", what, target, o->path);
	}
	return 0;
}

/* Refuse a loop: is fd, the newest file of layer n, already in the chain? Refuse the target of a copy, too. */
static int chain_check(const struct img_open *o, const struct img_layer *layers, unsigned n, int fd, const char *path,
	struct err *e)
{
	bool twice = fd != layers[n].fd && same_file(fd, layers[n].fd);
	int r = target_check(o, layers, n, fd, e);

	if (r < 0)
		return r;
	for (unsigned i = 0; i < n && !twice; i++)
		twice = same_file(fd, layers[i].fd) ||
			(layers[i].data_fd && same_file(fd, layers[i].data_fd));
	return !twice ? 0 : err_set(e, -EINVAL, ERR_INVALID,
		"the backing chain of %s is a loop: %s occurs twice", layers[0].path, path);
}

int img_probed_refuse(const struct img_open *o, const char *what, struct err *e)
{
	return o->format ? 0 : err_set(e, -EPERM, ERR_PERMISSION, "%s names a %s file, which is not written unless the format is given, "
		"because the guest of a raw disk may have written the name; if the image is qcow2, add -f qcow2", o->path, what);
}

/* Open the data file that the user names in place of the image's. */
static int data_chosen(const struct img_open *o, struct img_layer *y, struct err *e)
{
	int r;

	if (!(y->header.incompatible & QCOW2_INCOMPAT_DATA_FILE))
		return err_set(e, -EINVAL, ERR_INVALID, "%s has no external data file, so data-file does not apply", y->path);
	r = file_open(o->data_path, o->writable, &y->data_fd, e);
	if (r < 0)
		return r;
	y->data_path = strdup(o->data_path);
	return y->data_path ? 0 : err_set_errno(e, -ENOMEM, "%s", o->data_path);
}

static int data_open(const struct img_open *o, struct img_layer *layers, unsigned n, struct err *e)
{
	struct img_layer *y = &layers[n];
	const char *slash = strrchr(y->path, '/');
	bool writable = o->writable && !n;
	char path[PATH_MAX];
	int r;

	if (!n && o->data_path && !o->no_backing) {
		r = data_chosen(o, y, e);
		return r ? r : chain_check(o, layers, n, y->data_fd, y->data_path, e);
	}
	if (!(y->header.incompatible & QCOW2_INCOMPAT_DATA_FILE) || o->no_backing)
		return 0;
	if (!n && o->data_fd) {
		y->data_fd = dup(o->data_fd);
		return y->data_fd < 0 ? err_set_errno(e, -errno, "%s", y->path) : 0;
	}
	if (!*y->header.data_file)
		return err_set(e, -EINVAL, ERR_CORRUPT, "%s has an external data file but does not "
			"name it; set the name with `cairn-img amend -f qcow2 -o data_file=FILE IMAGE`", y->path);
	r = writable && !o->keeps_data ? img_probed_refuse(o, "data", e) : 0;
	if (!r)
		r = file_resolve(o, y->path, y->header.data_file, "data", path, e);
	if (!r)
		r = file_open(path, writable, &y->data_fd, e);
	if (r < 0)
		return r;
	if (asprintf(&y->data_path, "%.*s%s", *y->header.data_file != '/' && slash
		? (int)(slash + 1 - y->path) : 0, y->path, y->header.data_file) < 0) {
		y->data_path = NULL;
		return err_set_errno(e, -ENOMEM, "%s", path);
	}
	return chain_check(o, layers, n, y->data_fd, path, e);
}

/* Let `sub`, which options or a name describe, be the layer y. ret_next: as in chain_step(). */
static int backing_taken(const struct img_open *sub, const char *name, struct img_layer *y, char *ret_next, struct err *e)
{
	int r;

	if (sub->backing || sub->data_path || sub->ranged)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "options backing, data-file, offset and size of a backing file are not "
			"supported");
	if (!sub->format)
		return err_set(e, -EINVAL, ERR_INVALID, "the options of the backing file '%s' give no driver, and the image gives no "
			"format", name);
	r = img_format_parse(sub->format, &y->format, e);
	if (r < 0)
		return r;
	y->protocol = sub->protocol;
	if (sub->protocol)
		snprintf(ret_next, PATH_MAX, "%s", sub->path);
	else if (sub->path != name && !realpath(sub->path, ret_next))
		return err_set_errno(e, -errno, "backing file %s", sub->path);
	return 0;
}

/* Take a name in a header that is no path, for the layer y below it. ret_next: as in chain_step(). */
static int backing_trusted(const struct img_open *o, const struct qcow2_header *above, char *name, struct img_layer *y,
	char *ret_next, struct err *e)
{
	struct img_open sub = { .format = *above->backing_format ? above->backing_format : NULL };
	int r = o->trust(&sub, name, e);

	return r ? r : backing_taken(&sub, name, y, ret_next, e);
}

/* Name layer n + 1 as qemu-img does. */
static int layer_name(struct img_layer *layers, unsigned n, const char *backing, struct err *e)
{
	char path[2 * PATH_MAX];

	img_path_beside(img_layer_shown(&layers[n]), backing, path, sizeof(path));
	layers[n + 1].shown = strdup(path);
	return layers[n + 1].shown ? 0 : err_set_errno(e, -ENOMEM, "%s", path);
}

/* Take the backing file that the options of the image choose, for the layer y. name: as the image names it. */
static int backing_chosen(const struct img_open *o, const struct qcow2_header *above, char *name, struct img_layer *y,
	char *ret_next, struct err *e)
{
	struct img_open sub = { .path = name };
	char text[IMG_URL_BYTES];
	int r;

	if (!*o->backing) { /* an empty disk takes its place */
		y->format = BLOCK_FORMAT_RAW;
		y->fd = memfd_create("nothing", MFD_CLOEXEC);
		y->path = strdup("nothing");
		return y->fd < 0 || !y->path ? err_set_errno(e, -ENOMEM, "%s", o->path) : 0;
	}
	snprintf(text, sizeof(text), "%s", o->backing);
	r = o->take(&sub, text, e);
	if (r < 0)
		return r;
	if (!sub.format && *above->backing_format)
		sub.format = above->backing_format;
	r = backing_taken(&sub, name, y, ret_next, e);
	if (r < 0 || sub.path != name)
		return r;
	/* The options name no other file. */
	return o->trust && img_is_no_path(name) ? backing_trusted(o, above, name, y, ret_next, e)
		: file_resolve(o, o->path, name, "backing", ret_next, e);
}

/* Open layer n. ret_next: resolved path of the next layer, or its URL, or "". */
static int chain_step(const struct img_open *o, struct img_layer *layers, unsigned n,
	const char *path, char *ret_next, struct err *e)
{
	struct img_layer *y = &layers[n];
	char backing[QCOW2_BACKING_NAME_MAX + 1];
	int r;

	*ret_next = 0;
	if (y->protocol)
		return url_layer(y, path, e);
	r = layer_open(y, path, o->writable && !n, e);
	if (!r && !n)
		r = format_find(o, y->fd, &y->format, e);
	if (!r)
		r = chain_check(o, layers, n, y->fd, y->path, e);
	if (r < 0 || y->format == BLOCK_FORMAT_RAW)
		return r;
	r = o->damaged ? qcow2_header_read_damaged(y->fd, path, &y->header, e) : qcow2_header_read(y->fd, path, &y->header, e);
	if (!r)
		r = data_open(o, layers, n, e);
	if (r < 0 || !y->header.has_backing || o->no_backing)
		return r;
	if (n + 1 == BLOCK_LAYERS_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "the backing chain of %s has more than %d layers",
			layers[0].path, BLOCK_LAYERS_MAX);
	img_backing_path(&y->header, backing);
	if (!n && o->backing)
		return backing_chosen(o, &y->header, backing, &layers[n + 1], ret_next, e);
	if (o->trust && img_is_no_path(backing))
		return backing_trusted(o, &y->header, backing, &layers[n + 1], ret_next, e);
	if (!*y->header.backing_format)
		return err_set(e, -EINVAL, ERR_INVALID, "%s does not give the format of its backing file; set it "
			"with `cairn-img rebase -u -F FMT -b FILE IMAGE`", path);
	if (img_format_parse(y->header.backing_format, &layers[n + 1].format, NULL) < 0)
		return err_set(e, -EINVAL, ERR_INVALID, "%s has a backing file of the format '%s'; only raw and qcow2 are "
			"supported", path, y->header.backing_format);
	r = file_resolve(o, !n && o->named ? o->named : path, backing, "backing", ret_next, e);
	return r ? r : layer_name(layers, n, backing, e);
}

int img_layers_open(const struct img_open *o, struct img_layer *layers, unsigned *ret_n, struct err *e)
{
	if (o->protocol)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "%s: this needs a file; copy the disk to one with `cairn-img convert`",
			o->path);
	return img_disk_layers_open(o, layers, ret_n, e);
}

int img_disk_layers_open(const struct img_open *o, struct img_layer *layers, unsigned *ret_n, struct err *e)
{
	char path[PATH_MAX];
	unsigned n = 0;
	int r;

	memset(layers, 0, BLOCK_LAYERS_MAX * sizeof(*layers));
	for (unsigned i = 0; i < BLOCK_LAYERS_MAX; i++)
		layers[i].fd = -1;
	layers[0].protocol = o->protocol;
	layers[0].format = BLOCK_FORMAT_RAW; /* until it is found out */
	if (snprintf(path, sizeof(path), "%s", o->path) >= (int)sizeof(path))
		return err_set_errno(e, -ENAMETOOLONG, "%s", o->path);
	if (o->writable && (o->backing || o->ranged))
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "%s: the options backing, offset and size are for reading; an image is not "
			"changed with them", o->path);
	if (o->writable && o->no_lock)
		return err_set(e, -EINVAL, ERR_INVALID, "%s: -U (--force-share) is for reading; a change needs the lock", o->path);
	do {
		char next[PATH_MAX];

		r = chain_step(o, layers, n++, path, next, e);
		memcpy(path, next, sizeof(path));
	} while (!r && *path);
	if (!r && n < BLOCK_LAYERS_MAX && layers[n].path) /* the empty layer of backing_chosen() */
		n++;
	if (r < 0)
		img_layers_free(layers, n);
	else
		*ret_n = n;
	return r;
}

int img_layers_join(struct loop *l, struct img_layer *layers, unsigned n, struct block_open *bo, struct block **ret_b,
	struct err *e)
{
	struct block_layer files[BLOCK_LAYERS_MAX];
	const struct img_layer *last = &layers[n - 1];
	struct block *url = NULL;
	int r = 0;

	if (last->protocol)
		r = last->protocol->open(l, last->path, block_format_name(last->format), NULL, n == 1 && !bo->read_only, &url, e);
	for (unsigned i = 0; i < n; i++)
		files[i] = img_layer_files(&layers[i]);
	files[n - 1].open = url;
	bo->layers = files;
	bo->nlayers = n;
	if (!r)
		r = block_open(l, bo, ret_b, e);
	if (r < 0)
		block_close(url);
	for (unsigned i = 0; !r && i < n; i++)
		img_layer_given(&layers[i]);
	return r;
}

/* Get the id of the snapshot with the id and the name in o. */
static int snapshot_resolve(const struct img_open *o, const struct img_layer *y, char ret[BLOCK_SNAPSHOT_ID_MAX + 1],
	struct err *e)
{
	struct qcow2_snapshot_info *list;
	bool found = false;
	size_t n;
	int r = y->format != BLOCK_FORMAT_QCOW2 ? 1 : qcow2_snapshots_read(y->fd, &y->header, &list, &n, e);

	if (r < 0)
		return r;
	for (size_t i = 0; i < n && !r && !found; i++) {
		found = (!o->snapshot_id || !strcmp(o->snapshot_id, list[i].id)) &&
			(!o->snapshot_name || !strcmp(o->snapshot_name, list[i].name)) &&
			snprintf(ret, BLOCK_SNAPSHOT_ID_MAX + 1, "%s", list[i].id) <= BLOCK_SNAPSHOT_ID_MAX;
	}
	if (!r)
		qcow2_snapshots_free(list, n);
	return found ? 0 : err_set(e, -ENOENT, ERR_NOT_FOUND, "%s has no snapshot with %s%s%s%s%s", o->path,
		o->snapshot_id ? "the id " : "", o->snapshot_id ? o->snapshot_id : "",
		o->snapshot_id && o->snapshot_name ? " and " : "",
		o->snapshot_name ? "the name " : "", o->snapshot_name ? o->snapshot_name : "");
}

static int files_open(struct loop *l, const struct img_open *o, struct block **ret_b, struct err *e)
{
	struct img_layer *layers = calloc(BLOCK_LAYERS_MAX, sizeof(*layers));
	struct block_open bo = { .read_only = !o->writable, .no_lock = o->no_lock, .lazy_bitmaps = o->lazy_bitmaps, .buffered = !o->direct,
		.snapshot = o->snapshot, .cache_bytes = o->cache_bytes, .name = o->path };
	char id[BLOCK_SNAPSHOT_ID_MAX + 1];
	unsigned n;
	int r;

	if (!layers)
		return err_set_errno(e, -ENOMEM, "%s", o->path);
	r = img_layers_open(o, layers, &n, e);
	if (!r && (o->snapshot_id || o->snapshot_name)) {
		r = snapshot_resolve(o, &layers[0], id, e);
		bo.snapshot = id;
		if (r < 0)
			img_layers_free(layers, n);
	}
	if (r < 0) {
		free(layers);
		return r;
	}
	r = img_layers_join(l, layers, n, &bo, ret_b, e);
	img_layers_free(layers, n);
	free(layers);
	return r;
}

int img_range_bytes(const struct img_open *o, uint64_t disk_bytes, uint64_t *ret, struct err *e)
{
	if (!range_inside(o->offset, o->size_bytes, disk_bytes))
		return err_set(e, -EINVAL, ERR_INVALID, "%s has %llu bytes: the offset %llu and the size %llu lie outside", o->path,
			(unsigned long long)disk_bytes, (unsigned long long)o->offset, (unsigned long long)o->size_bytes);
	*ret = o->size_bytes ? o->size_bytes : disk_bytes - o->offset;
	return 0;
}

/* Replace *b by the range of it that o selects; close it on error. */
static int range_open(struct loop *l, const struct img_open *o, struct block **b, struct err *e)
{
	struct block_part part = { .b = *b, .offset = o->offset };
	struct block_info info;
	int r;

	block_info(*b, &info);
	r = img_range_bytes(o, info.size_bytes, &part.len, e);
	if (!r)
		r = block_parts_open(l, &part, 1, b, e);
	if (r < 0)
		block_close(part.b);
	return r;
}

int img_block_open(struct loop *l, const struct img_open *o, struct block **ret_b, struct err *e)
{
	struct block *b = NULL;
	int r;

	if (o->protocol && o->snapshot)
		return err_set(e, -EINVAL, ERR_INVALID, "%s: only a qcow2 image has snapshots", o->path);
	if (o->protocol && o->ranged && o->writable)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "%s: the options offset and size are for reading", o->path);
	r = o->protocol ? o->protocol->open(l, o->path, o->format, o->context, o->writable, &b, e) : files_open(l, o, &b, e);
	if (!r && o->ranged)
		r = range_open(l, o, &b, e);
	if (!r)
		*ret_b = b;
	return r;
}

int img_depth_check(const struct block *backing, const char *name, struct err *e)
{
	struct block_layer layers[BLOCK_LAYERS_MAX];

	if (block_layers(backing, layers) < BLOCK_LAYERS_MAX)
		return 0;
	return err_set(e, -EINVAL, ERR_INVALID, "the backing file %s has %d layers itself, and a disk has at most %d; shorten its chain first, "
		"with `cairn-img rebase` or `cairn-img commit`", name, BLOCK_LAYERS_MAX, BLOCK_LAYERS_MAX);
}

int img_block_close(struct block *b, const char *path, int r, struct err *e)
{
	int closed = block_close(b);

	if (r < 0 || closed >= 0)
		return r;
	if (closed == -ECANCELED) /* by a signal */
		return err_set(e, -EINTR, ERR_CANCELLED, "interrupted");
	return err_set_errno(e, closed, "cannot write %s", path);
}

int img_block_run(struct loop *l, const struct img_open *o, int (*work)(struct block *b, void *opaque, struct err *e), void *opaque,
	struct err *e)
{
	struct block *b = NULL;
	int r = img_block_open(l, o, &b, e);

	if (r < 0)
		return r;
	r = work(b, opaque, e);
	if (o->writable)
		return img_block_close(b, o->path, r, e);
	block_close(b);
	return r;
}

int img_header_open(const struct img_open *from, const char *has_none, struct img_layer *layers, unsigned *ret_n, struct err *e)
{
	struct img_open o = *from;
	int r;

	o.no_backing = true;
	r = img_layers_open(&o, layers, ret_n, e);
	if (r < 0)
		return r;
	if (layers[0].format != BLOCK_FORMAT_QCOW2)
		r = err_set(e, -EINVAL, ERR_INVALID, "%s is raw and has no %s", o.path, has_none);
	if (!r)
		r = lock_acquire(layers[0].fd, LOCK_AS_WRITER, o.path, e);
	if (!r)
		r = qcow2_header_read(layers[0].fd, o.path, &layers[0].header, e);
	if (!r)
		r = qcow2_header_supported(&layers[0].header, true, e);
	if (r < 0)
		img_layers_free(layers, *ret_n);
	return r;
}
